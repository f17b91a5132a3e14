"""`topiclora merge`: every kind of gates in every format, proven from disk, and every way it can be told nonsense."""

import json
import shutil

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from tests.conftest import shaken, write_tiny_recipe
from topiclora_cli.api import load_model
from topiclora_cli.cli.app import main
from topiclora_cli.cli.console import console
from topiclora_cli.runs.results.bundle import BUNDLE, Bundle
from topiclora_cli.runs.results.export import Export
from topiclora_cli.runs.results.files import read_result

TOKENS = torch.tensor([[5, 9, 12, 7, 30, 8], [4, 4, 21, 17, 6, 11]])


@pytest.fixture(scope="module")
def trained(tiny_model_dir, tmp_path_factory):
    """A run whose experts and routers are far from where they start."""
    folder = tmp_path_factory.mktemp("merged")
    recipe = write_tiny_recipe(folder, tiny_model_dir)
    with pytest.raises(SystemExit) as stop, console.capture():
        main(["train", "--recipe", str(recipe), "--out", str(folder / "run")])
    assert not stop.value.code
    model, _ = load_model(folder / "run")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("topiclora_" in name)
    shaken(model).save_pretrained(folder / "run" / "adapter")
    return folder / "run"


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def merged(run_cli, run, *arguments):
    code, text = run_cli("merge", run, *arguments)
    assert code == 0, text
    return text


@pytest.mark.parametrize(
    "gates", ["uniform", "expert:2", "topics:arithmetic=0.75,translation=0.25", "learned", "topic:translation"]
)
def test_a_lora_for_any_gates_lies_in_a_folder_of_its_own(gates, run, run_cli):
    merged(run_cli, run, "--gates", gates, "--to", "lora", "--set", "merge.steps=2")
    (folder,) = (run / "merged").iterdir()
    export = read_result(folder / "gap.json", Export)
    assert (export.gates, [part.name for part in export.models]) == (gates, ["base", "lora"])
    assert export.kl == export.models[1].kl > 0
    assert export.rank == (2 if gates == "expert:2" else 8)
    assert json.loads((folder / "lora" / "adapter_config.json").read_text())["r"] == export.rank


def test_gates_are_means_over_the_prompts_of_a_file(run, run_cli, tmp_path):
    rows = [{"prompt": f"What is {n} plus {n} ?", "completion": str(2 * n)} for n in range(5)]
    (tmp_path / "own.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    merged(run_cli, run, "--gates", f"mean:{tmp_path / 'own.jsonl'}", "--to", "lora", "--out", run / "own")
    assert read_result(run / "own" / "gap.json", Export).calibration == 5


def test_figures_are_the_same_where_a_model_makes_every_logit(run, run_cli, monkeypatch):
    merged(run_cli, run, "--out", run / "some")
    monkeypatch.setattr("topiclora_cli.stages.proof.selects_logits", lambda model, **_: False)
    merged(run_cli, run, "--out", run / "all")
    some, every = (read_result(run / name / "gap.json", Export) for name in ("some", "all"))
    assert some.topics
    for one, other in zip((*some.models, *some.topics), (*every.models, *every.topics), strict=True):
        assert (one.name, one.kl, one.perplexity, one.agreement) == (
            other.name,
            pytest.approx(other.kl, abs=1e-6),
            pytest.approx(other.perplexity, rel=1e-5),
            other.agreement,
        )


def test_a_converter_that_fails_is_named_with_what_it_said(run, run_cli, tmp_path, monkeypatch):
    converter = tmp_path / "bin" / "convert_hf_to_gguf.py"
    converter.parent.mkdir()
    converter.write_text("#!/bin/sh\necho Model is not supported >&2\nexit 1\n")
    converter.chmod(0o755)
    monkeypatch.setenv("PATH", str(converter.parent), prepend=":")
    code, text = run_cli("merge", run, "--to", "gguf")
    assert (code, "convert_hf_to_gguf.py failed: Model is not supported" in text) == (2, True), text
    assert not list((run / "merged").iterdir())


def test_learned_gates_are_nearer_to_the_routed_model_than_the_mean(run, run_cli):
    merged(run_cli, run, "--to", "lora", "--out", run / "mean")
    merged(run_cli, run, "--to", "lora", "--gates", "learned", "--out", run / "learned", "--set", "merge.steps=60")
    mean, learned = (read_result(run / name / "gap.json", Export) for name in ("mean", "learned"))
    assert learned.kl < mean.kl


def test_all_topics_make_a_bundle_whose_adapters_the_prior_chooses_among(run, run_cli):
    merged(run_cli, run, "--gates", "topic:all", "--to", "lora")
    folder = run / "merged" / "topic-all"
    bundle, export = read_result(folder / BUNDLE, Bundle), read_result(folder / "gap.json", Export)
    graph = json.loads((folder / "topic_graph" / "graph.json").read_text())
    assert set(bundle.topics) == set(graph["topics"])
    names = [adapter.name for adapter in bundle.adapters]
    assert bundle.default == "mean" == names[0]
    assert set(bundle.topics.values()) <= set(names)
    for adapter in bundle.adapters:
        config = json.loads((folder / adapter.folder / "adapter_config.json").read_text())
        assert config["peft_type"] == "LORA"
        assert config["r"] == adapter.rank <= bundle.max_rank
        assert all(bundle.topics[topic] == adapter.name for topic in adapter.topics)
    assert {part.name for part in export.models} <= {"base", *names}
    assert (folder / "recipe.yaml").is_file()


def test_experts_add_up_again_in_peft(run, run_cli, tiny_model_dir):
    merged(run_cli, run, "--to", "lora,experts", "--gates", "uniform")
    folder = run / "merged" / "uniform"
    weights = json.loads((folder / "experts" / "weights.json").read_text())
    assert (weights["adapters"], weights["weights"]) == ([f"expert-{e}" for e in range(4)], [0.25] * 4)
    parts = {part.name: part for part in read_result(folder / "gap.json", Export).models}
    assert parts["experts"].kl == pytest.approx(parts["lora"].kl, abs=1e-5)


def test_a_dense_model_keeps_its_precision_or_takes_the_one_asked_for(run, run_cli):
    merged(run_cli, run, "--to", "dense", "--dtype", "bfloat16", "--out", run / "half")
    model = AutoModelForCausalLM.from_pretrained(run / "half" / "dense", dtype="auto")
    assert model.dtype == torch.bfloat16
    assert len(AutoTokenizer.from_pretrained(run / "half" / "dense")) == model.config.vocab_size
    assert {"README.md", "generation_config.json"} <= {path.name for path in (run / "half" / "dense").iterdir()}


@pytest.mark.parametrize("gates", ["mean", "topic:all"])
def test_tasks_are_scored_beside_base_and_routed_model(gates, run, run_cli):
    tasks = "topiclora_syllogisms,topiclora_word_sorting"
    text = merged(run_cli, run, "--to", "lora", "--gates", gates, "--eval-tasks", tasks, "--set", "eval.limit=3")
    export = read_result(next((run / "merged").glob("*/gap.json")), Export)
    assert [task.task for task in export.tasks] == [*tasks.split(","), "mean of 2"]
    assert all(score is not None and 0 <= score <= 1 for t in export.tasks for score in (t.base, t.routed, t.export))
    assert "gain kept" in text


def test_a_self_loading_folder_routes_and_is_no_export_of_gates(run, run_cli):
    text = merged(run_cli, run, "--to", "self-loading", "--max-gap", "1e-5")
    export = read_result(run / "merged" / "self-loading" / "gap.json", Export)
    assert (export.gates, export.rank) == ("routed", None)
    assert (export.agreement, "Export that routes" in text) == (1, True)
    folder = run / "merged" / "self-loading" / "self-loading"
    model, tokenizer = load_model(run)
    again = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(TOKENS).logits, model(input_ids=TOKENS).logits, atol=1e-6, rtol=1e-6)
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == tokenizer.get_vocab()
    answers = pipeline("text-generation", model=str(folder), trust_remote_code=True)
    assert answers("What is 3 plus 4 ?", max_new_tokens=3)[0]["generated_text"].startswith("What is 3 plus 4 ?")


def test_a_cut_shows_what_every_rank_costs(run, run_cli, tiny_model_dir):
    text = merged(run_cli, run, "--to", "lora", "--rank", "3")
    export = read_result(run / "merged" / "mean" / "gap.json", Export)
    assert [part.name for part in export.ranks] == ["4", "8"]
    assert export.rank == 3
    assert export.kl > export.ranks[0].kl > export.ranks[1].kl
    assert "Cut to other ranks" in text
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    lora = PeftModel.from_pretrained(base, run / "merged" / "mean" / "lora")
    assert {len(m.lora_A["default"].weight) for m in lora.modules() if hasattr(m, "lora_A")} == {3}
    merged(run_cli, run, "--to", "lora", "--energy", "0.9", "--out", run / "energy")
    assert read_result(run / "energy" / "gap.json", Export).rank <= 8


def test_nothing_is_left_of_an_export_beyond_the_gap(run, run_cli):
    code, text = run_cli("merge", run, "--to", "lora,dense", "--max-gap", "1e-9")
    assert code == 2
    assert "nats per answer token from the routed model, beyond --max-gap 1e-09" in text
    assert not list((run / "merged").iterdir())
    code, text = run_cli("merge", run, "--to", "lora", "--max-gap", "1e-9", "--out", run / "x")
    assert (code, (run / "x").exists()) == (2, False)


MISTAKES = {
    "unknown gates": (["--gates", "mena"], "Use 'mean' or 'topic:NAME'"),
    "unknown topic": (["--gates", "topic:arithmetics"], "Did you mean 'arithmetic'"),
    "unknown topic of several": (["--gates", "topics:arithmetic=0.5,translatoin=0.5"], "Did you mean 'translation'"),
    "shares that do not sum": (["--gates", "topics:arithmetic=0.5,translation=0.4"], "sum to 0.9, not to 1"),
    "no share": (["--gates", "topics:arithmetic,translation=0.4"], "has no share for 'arithmetic'"),
    "no such expert": (["--gates", "expert:4"], "Its experts are 0 to 3"),
    "no expert": (["--gates", "expert:last"], "names no expert"),
    "no file": (["--gates", "mean:nowhere.jsonl"], "no prompts to average over"),
    "empty file": (["--gates", "mean:{run}/empty.jsonl"], "no prompts to average over"),
    "rank above": (["--rank", "9"], "above the 8 at which this export is exact"),
    "rank and energy": (["--set", "merge.rank=2", "--set", "merge.energy=0.5"], "leave one out"),
    "all topics dense": (["--gates", "topic:all", "--to", "dense"], "Use --to lora"),
    "no converter": (["--to", "gguf"], "needs llama.cpp's converter"),
    "unknown format": (["--to", "onnx"], "onnx"),
    "taken": (["--out", "{run}"], "Add --force"),
    "two places": (["--out", "x", "--name", "y"], "Leave one out"),
    "two runs": (["--run", "{run}"], "Leave one out"),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_are_one_line_and_leave_nothing(arguments, message, trained, run_cli):
    (trained / "empty.jsonl").write_text("")
    code, text = run_cli("merge", trained, *(each.format(run=trained) for each in arguments))
    assert code == 2, text
    assert message in text
    assert len([line for line in text.splitlines() if line.startswith("error: ")]) == 1
    assert not list(trained.glob("merged/*"))


def test_a_full_disk_is_found_out_before_anything_is_written(run, run_cli, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))
    code, text = run_cli("merge", run)
    assert (code, "0.00 GB are free on its disk" in text) == (2, True), text
    assert not list((run / "merged").iterdir())


@pytest.mark.parametrize("taken", ["run", "run/adapter", "folder", "file"])
def test_what_is_no_export_is_not_replaced_even_by_force(taken, run, run_cli, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("more of it")
    before = set(tmp_path.rglob("*"))
    code, text = run_cli("merge", run, "--to", "lora", "--out", tmp_path / taken, "--force")
    assert (code, "is no export" in text) == (2, True), text
    assert before - {run / ".lock"} <= set(tmp_path.rglob("*"))


def test_an_export_that_answers_with_nan_is_refused(run, run_cli, monkeypatch):
    monkeypatch.setattr("topiclora_cli.merging.gap.F.kl_div", lambda p, *_, **__: p * float("nan"))
    code, text = run_cli("merge", run, "--to", "lora")
    assert (code, "The export lora answers with NaN" in text) == (2, True), text
    assert not list((run / "merged").iterdir())


def test_an_export_in_the_way_is_replaced_by_force(run, run_cli):
    out = run / "out"
    merged(run_cli, run, "--to", "lora", "--out", out)
    (out / "old").write_text("")
    merged(run_cli, run, "--to", "lora", "--out", out, "--force")
    assert {path.name for path in out.iterdir()} == {"lora", "gap.json", "recipe.yaml"}
