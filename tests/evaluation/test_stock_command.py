"""`topiclora lm-eval`, lm-eval's own command: its figures on base, adapter and export are ours, to the last digit."""

import json
import subprocess
import sys
from functools import partial

import lm_eval
import pytest
from lm_eval.tasks import TaskManager
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import write_tiny_recipe
from tests.evaluation.conftest import GROUPS, TASKS
from topiclora_cli.cli.app import main
from topiclora_cli.evaluation.harness import EvalRequest
from topiclora_cli.evaluation.loading import load_tasks
from topiclora_cli.evaluation.metrics import CHOICE_LOSS
from topiclora_cli.evaluation.running import run_harness

# What lm-eval takes in one call: of two groups that share a task it refuses the second.
CALLS = (["over", "pairs", "cloze", "prose", "free"], ["plain"])
SAMPLES = {"few": [0, 2], "free": [1, 5, 7], "cloze": [11]}


@pytest.fixture(scope="module")
def made(tiny_model_dir, tmp_path_factory):
    """A run trained on a router of tokens, with an export."""
    folder = tmp_path_factory.mktemp("made")
    recipe = write_tiny_recipe(folder, tiny_model_dir)
    settings = ["adapter.router=linear", "loss.kl.weight=0", "train.max_steps=2", "eval.limit=null"]
    changes = [part for setting in settings for part in ("--set", setting)]
    for command in (["train", "--recipe", str(recipe), "--out", str(folder / "run"), *changes], ["merge", "--run"]):
        with pytest.raises(SystemExit) as stop:
            main(command if len(command) > 2 else [*command, str(folder / "run")])
        assert not stop.value.code
    return folder / "run"


@pytest.fixture
def stock(task_folder, tiny_model_dir, tmp_path, run_cli, monkeypatch):
    """The results of lm-eval's own command, by task, for a model's arguments."""
    begin = TaskManager.__init__
    monkeypatch.setattr(TaskManager, "__init__", lambda self, **s: begin(self, **{**s, "include_defaults": False}))
    evaluate = lm_eval.simple_evaluate

    def call(tasks, *arguments, draws=20, **model):
        monkeypatch.setattr(lm_eval, "simple_evaluate", partial(evaluate, bootstrap_iters=draws))
        out = tmp_path / f"stock-{len(list(tmp_path.glob('stock-*')))}"
        given = ",".join(f"{key}={value}" for key, value in {"pretrained": tiny_model_dir, **model}.items())
        common = ["--include_path", task_folder, "--output_path", out, "--device", "cpu", "--batch_size", "5"]
        code, text = run_cli(
            *("lm-eval", "--", "run", "--model", "hf", "--model_args", given, "--tasks", *tasks, *common, *arguments)
        )
        assert code == 0, text
        (path,) = out.rglob("results_*.json")
        return json.loads(path.read_text())["results"]

    return call


@pytest.fixture
def ours(made, task_folder, run_cli):
    """The results of our own command on the run, as lm-eval's files have them: those of the base and of the adapter."""

    def call(tasks, *arguments):
        code, text = run_cli(
            *("eval", "--run", made, "--include-path", task_folder, "--tasks", ",".join(tasks), "--batch-size", 5),
            *arguments,
        )
        assert code == 0, text
        folder = next(line.removeprefix("Results: ") for line in text.splitlines() if line.startswith("Results: "))
        return [latest(made.parent / folder / label) for label in ("base", "tuned")]

    def latest(folder):
        return json.loads(max(folder.glob("results_*.json")).read_text())["results"]

    return call


def figures(results):
    """What a test compares: every value and error of lm-eval's own metrics."""
    return {
        name: {key: value for key, value in values.items() if "," in key and not key.startswith(CHOICE_LOSS)}
        for name, values in results.items()
    }


def test_ten_tasks_of_every_kind_are_scored_as_by_lm_eval_on_base_and_adapter(stock, ours, made):
    base, tuned = ours([name for tasks in CALLS for name in tasks])
    assert base.keys() == TASKS.keys() | GROUPS.keys()
    for results, model in ((base, {}), (tuned, {"peft": made / "adapter"})):
        theirs = {}
        for tasks in CALLS:
            theirs |= stock(tasks, **model)
        assert figures(results) == figures(theirs)
    assert figures(base)["cloze"] != figures(tuned)["cloze"]


def test_an_export_is_scored_as_by_lm_eval(stock, made, tiny_model_dir, task_folder, tmp_path):
    (export,) = made.glob("merged/*/lora")
    request = EvalRequest(CALLS[0], include_path=str(task_folder), batch_size=5)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model_dir), export).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    run_harness(model, tokenizer, request, load_tasks(request), label="lora", output_path=tmp_path)
    (path,) = tmp_path.glob("lora/results_*.json")
    assert figures(json.loads(path.read_text())["results"]) == figures(stock(CALLS[0], peft=export))
    (dense,) = made.glob("merged/*/dense")
    model = AutoModelForCausalLM.from_pretrained(dense).eval()
    run_harness(model, tokenizer, request, load_tasks(request), label="dense", output_path=tmp_path)
    (path,) = tmp_path.glob("dense/results_*.json")
    assert figures(json.loads(path.read_text())["results"]) == figures(stock(CALLS[0], pretrained=dense))


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (["--limit", "0.4", "--num-fewshot", "1"], ["--limit", "0.4", "--num_fewshot", "1"]),
        (["--limit", "5", "--system-instruction", "Be odd."], ["--limit", "5", "--system_instruction", "Be odd."]),
        (["--samples", json.dumps(SAMPLES)], ["--samples", json.dumps(SAMPLES)]),
        (
            ["--gen-kwargs", "max_gen_toks=2,do_sample=true,temperature=2.0", "--seed", "3"],
            ["--gen_kwargs", "max_gen_toks=2,do_sample=true,temperature=2.0", "--seed", "3"],
        ),
    ],
)
def test_what_is_asked_and_how_is_as_lm_eval_has_it(mine, theirs, stock, ours):
    names = ["free"] if "--seed" in mine else ["few", "cloze", "free"]  # lm-eval draws on from task to task
    base, _ = ours(names, *mine)
    assert figures(base) == figures(stock(names, *theirs))


def test_answers_alone_are_those_of_lm_eval(stock, made, run_cli, task_folder, tmp_path):
    settings = ["--tasks", "free,few", "--include-path", task_folder, "--batch-size", 5, "--predict-only", "--no-base"]
    code, text = run_cli("eval", "--run", made, "--name", "answers", *settings)
    assert (code, "Answers: " in text) == (0, True), text
    summary = json.loads((made / "eval/answers/summary.json").read_text())
    assert (summary["tasks"], summary["mean"], summary["failed"]) == ([], None, {})
    stock(["free"], "--predict_only", peft=made / "adapter")
    rows = [read(folder, "free") for folder in (made / "eval/answers/tuned", tmp_path)]
    assert rows[0] == rows[1]
    assert len(read(made / "eval/answers/tuned", "few")) == 3


def read(folder, task):
    (path,) = folder.rglob(f"samples_{task}_*.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [(row["doc_id"], row["filter"], row["filtered_resps"]) for row in rows]


@pytest.mark.distributed
@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param(["torch.distributed.run", "--nproc-per-node"], marks=pytest.mark.nightly),
        ["accelerate.commands.launch"],
    ],
)
def test_two_processes_score_as_one(launcher, stock, made, task_folder, tiny_model_dir, tmp_path):
    if launcher[0].startswith("accelerate"):
        launcher = [*launcher, "--cpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        launcher += ["--num_processes"]
    arguments = ["lm-eval", "--", "run", "--model", "hf", "--tasks", "choice", "cloze", "--batch_size", "5"]
    arguments += ["--model_args", f"pretrained={tiny_model_dir},peft={made / 'adapter'}"]
    arguments += ["--include_path", str(task_folder), "--output_path", str(tmp_path / "two")]
    start = [sys.executable, "-m", *launcher, "2", "-m", "topiclora_cli"]
    done = subprocess.run([*start, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = (tmp_path / "two").rglob("results_*.json")
    two = figures(json.loads(path.read_text())["results"])
    alone = figures(stock(["choice", "cloze"], draws=100_000, peft=made / "adapter"))  # as many as lm-eval's command
    for name, values in two.items():
        assert values == pytest.approx(alone[name], rel=1e-6), name
