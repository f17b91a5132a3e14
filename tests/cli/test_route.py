"""`topiclora route` on tiny runs: what it shows, what its JSON adds up to, what it says of a run that lacks a part."""

import json
import shutil

import pytest

import topiclora_cli.adapters  # noqa: F401 -- registers the method
from tests.conftest import write_tiny_recipe
from topiclora_cli.cli.app import main
from topiclora_cli.cli.console import console

PROMPT = "What is 12 times 7?"


def made(folder, model, *changes):
    """A run of one training step, unless `changes` say otherwise."""
    recipe = write_tiny_recipe(folder, model)
    settings = [part for change in ("train.max_steps=1", *changes) for part in ("--set", change)]
    with pytest.raises(SystemExit) as stop:
        main(["train", "--recipe", str(recipe), "--out", str(folder / "run"), *settings])
    assert not stop.value.code
    return folder / "run"


@pytest.fixture(scope="module")
def trained(tiny_model_dir, tmp_path_factory):
    return made(tmp_path_factory.mktemp("trained"), tiny_model_dir)


@pytest.fixture
def run(trained, tmp_path):
    """A private copy of the trained run."""
    return shutil.copytree(trained, tmp_path / "run")


def sums(*rows):
    assert [sum(row) for row in rows] == pytest.approx([1.0] * len(rows), abs=1e-5)


def test_text_shows_topics_prior_and_gates(trained, run_cli):
    code, text = run_cli("route", PROMPT, "--run", trained)
    assert code == 0, text
    for part in ("Topics of the prompt", "confidence of the prior 0.", "prior %", "gates %", "Gates by layer"):
        assert part in text
    rows = text[text.index("Gates by layer") :].splitlines()[2:4]
    assert [row.split()[0] for row in rows] == ["0", "1"]
    assert "██" in "".join(rows)
    for row in rows:
        numbers = [int(word) for word in row.split()[1:] if word.isdigit()]
        assert len(numbers) == 4
        assert sum(numbers) == pytest.approx(100, abs=2)


def test_many_experts_are_shown_in_parts(trained, run_cli, monkeypatch):
    monkeypatch.setattr(console, "width", 30)
    code, text = run_cli("route", PROMPT, "--run", trained)
    assert code == 0, text
    assert [line.split()[1:] for line in text.splitlines() if line.startswith(" layer ")] == [["0", "1"], ["2", "3"]]


def test_json_is_one_object_whose_numbers_add_up(trained, run_cli):
    code, text = run_cli("route", PROMPT, "--run", trained, "--json")
    assert code == 0, text
    result = json.loads(text)
    assert result["prompt"] == PROMPT
    assert 0 <= result["confidence"] <= 1
    relevance = [score["relevance"] for score in result["topics"]]
    assert relevance == sorted(relevance, reverse=True)
    assert len(result["experts"]) == len(result["prior"]) == 4
    assert [row["layer"] for row in result["gates"]] == [0, 1]
    for row in result["gates"]:
        assert [name.rpartition(".")[2] for name in row["modules"]] == ["q_proj", "down_proj"]
        sums(row["mean"], *row["modules"].values())
    sums(result["prior"], result["mean_gates"])
    by_layer = zip(*(row["mean"] for row in result["gates"]), strict=True)
    assert [sum(column) / 2 for column in by_layer] == pytest.approx(result["mean_gates"], abs=1e-5)


def test_routing_leaves_the_run_as_it_was(run, run_cli):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert run_cli("route", PROMPT, "--run", run)[0] == 0
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_the_prior_reads_the_base_without_the_adapter(tiny_model_dir, tmp_path, run_cli, capsys):
    run = made(tmp_path, tiny_model_dir, "graph.encoder=lm", "train.learning_rate=1.0", "train.max_steps=3")
    capsys.readouterr()
    with_adapter = json.loads(run_cli("route", PROMPT, "--run", run, "--json")[1])
    shutil.rmtree(run / "adapter")
    without = json.loads(run_cli("route", PROMPT, "--run", run, "--json")[1])
    assert with_adapter["gates"]
    assert with_adapter["prior"] == without["prior"]


def test_png(trained, run_cli, tmp_path):
    path = tmp_path / "new folder" / "gates.png"
    code, text = run_cli("route", PROMPT, "--run", trained, "--png", path, "--json")
    assert code == 0, text
    assert json.loads(text)["gates"]
    assert path.read_bytes().startswith(b"\x89PNG")


def test_without_an_adapter_the_graph_speaks_alone(run, run_cli):
    shutil.rmtree(run / "adapter")
    code, text = run_cli("route", PROMPT, "--run", run)
    assert code == 0, text
    assert "prior %" in text
    assert "gates" not in text.lower()
    code, text = run_cli("route", PROMPT, "--run", run, "--png", "gates.png")
    assert (code, "no routers" in text) == (2, True), text


def test_without_a_graph_the_routers_speak_alone(run, run_cli):
    shutil.rmtree(run / "graph")
    shutil.rmtree(run / "adapter" / "topic_graph")
    code, text = run_cli("route", PROMPT, "--run", run, "--png", "gates.png")
    assert code == 0, text
    assert "Gates by layer" in text
    assert "prior" not in text
    result = json.loads(run_cli("route", PROMPT, "--run", run, "--json")[1])
    assert result["topics"] is result["prior"] is result["confidence"] is result["experts"] is None
    sums(result["mean_gates"])


def test_a_graph_built_anew_leaves_the_prior_that_the_adapter_was_trained_with(run, run_cli, capsys):
    before = json.loads(run_cli("route", PROMPT, "--run", run, "--json")[1])
    assert run_cli("build-graph", "--run", run, "--set", "seed=7", "--set", "adapter.num_experts=3")[0] == 0
    with pytest.raises(SystemExit):
        main(["route", PROMPT, "--run", str(run), "--json"])
    captured = capsys.readouterr()
    assert json.loads(captured.out) == before
    warning = f"Warning: {run / 'graph'} was built anew after training; what is used is the adapter's own"
    assert captured.err.startswith(warning)
    assert captured.err.count("\n") == 1
    assert warning in run_cli("route", PROMPT, "--run", run)[1]
    shutil.rmtree(run / "graph")
    code, text = run_cli("route", PROMPT, "--run", run, "--json")
    assert (code, json.loads(text)) == (0, before)


def test_without_either_it_names_the_command_for_a_graph(run, run_cli):
    shutil.rmtree(run / "graph")
    shutil.rmtree(run / "adapter")
    code, text = run_cli("route", PROMPT, "--run", run)
    assert (code, f"topiclora build-graph --run {run}" in text) == (2, True), text


@pytest.mark.parametrize("change", ["adapter.method=lora", "adapter={num_experts: 1, top_k: 1, router: linear, r: 2}"])
def test_an_adapter_that_routes_nothing(change, tiny_model_dir, tmp_path, run_cli):
    run = made(tmp_path, tiny_model_dir, "loss.kl.weight=0", change, "adapter.target_modules=[q_proj]")
    shutil.rmtree(run / "graph", ignore_errors=True)
    code, text = run_cli("route", PROMPT, "--run", run)
    assert (code, "has no routers" in text, f"topiclora build-graph --run {run}" in text) == (2, True, True), text


def test_layers_may_differ_in_their_number_of_experts(tiny_model_dir, tmp_path, run_cli):
    run = made(tmp_path, tiny_model_dir, "adapter.method=mola", "adapter.experts_by_depth=[2, 3]", "loss.kl.weight=0")
    code, text = run_cli("route", PROMPT, "--run", run, "--png", "gates.png")
    assert code == 0, text
    result = json.loads(run_cli("route", PROMPT, "--run", run, "--json")[1])
    assert [len(row["mean"]) for row in result["gates"]] == [2, 3]


def test_adapters_beside_the_experts_of_a_sparse_base(tiny_moe_dir, tmp_path, run_cli, capsys):
    run = made(tmp_path, tiny_moe_dir, "adapter.method=perft-r", "adapter.target_modules=experts", "loss.kl.weight=0")
    capsys.readouterr()
    code, text = run_cli("route", PROMPT, "--run", run, "--json")
    assert code == 0, text
    result = json.loads(text)
    sums(result["mean_gates"], *(row["mean"] for row in result["gates"]))


def test_a_picture_that_cannot_be_written(trained, run_cli, tmp_path):
    code, text = run_cli("route", PROMPT, "--run", trained, "--png", tmp_path)
    assert (code, "cannot be written: Is a directory" in text) == (2, True), text


UNROUTABLE = {"": "prompt is empty", " \n": "prompt is empty", "7 " * 600: "600 tokens, not 1 to 512"}


@pytest.mark.parametrize(("prompt", "message"), UNROUTABLE.items(), ids=["empty", "blank", "long"])
def test_prompts_that_cannot_be_routed(prompt, message, trained, run_cli):
    code, text = run_cli("route", prompt, "--run", trained)
    assert (code, message in text) == (2, True), text
