"""What stages say when they end, and the screen that a quickstart ends with."""

from dataclasses import replace
from pathlib import Path

import pytest

from topiclora_cli.recipe import load_recipe
from topiclora_cli.reporting import screen, summary
from topiclora_cli.reporting.formats import duration
from topiclora_cli.reporting.verdicts import AGREEMENT, verdict
from topiclora_cli.runs.results.evaluation import EvalSummary, MeanScores, RoutingReport, TaskScores
from topiclora_cli.runs.results.export import Export
from topiclora_cli.runs.results.metrics import LoggedStep
from topiclora_cli.runs.results.training import TrainResult
from topiclora_cli.runs.run import RunDir

SHARE = {"unit": "share", "higher_is_better": True, "base_stderr": 0.05, "tuned_stderr": 0.05, "delta_stderr": 0.021}
EXPORT = Export("mean", 0.012, 0.962, 300, "held-out examples", 64, 64)


def task(name, base, tuned):
    delta = None if base is None else tuned - base
    facts = {"group": False, "depth": 0, "counted": True, "metric": "acc", "filter": "none", "count": 40, "metrics": {}}
    return TaskScores(task=name, base=base, tuned=tuned, delta=delta, **facts, **SHARE)


def evaluation(count=16):
    tasks = tuple(task(f"topiclora_family_number_{n}", 0.2, 0.4 + n / 100) for n in range(count))
    mean = MeanScores(of=tuple(each.task for each in tasks), base=0.192, tuned=0.386, delta=0.194, **SHARE)
    routing = RoutingReport({"sums": [0.5, 0.1, 0.1, 0.3]}, 3.2, 0.5, 0.24, 0.4)
    return EvalSummary(name="all", mean=mean, tasks=tasks, routing=routing)


@pytest.fixture
def run(tmp_path):
    return RunDir.create(tmp_path / "run", recipe_yaml="name: mine\n", name="mine", seed=0)


def test_an_evaluation_ends_with_its_mean_and_its_routing():
    assert summary.eval_lines(evaluation()) == [
        "tuned 38.6, base 19.2: +19.4 ± 2.1 (acc, % ↑; 640 questions of 16 tasks)",
        "3.2 of 4 experts in use over all layers (good); expert and topic share 0.24 nats",
    ]
    unbased = replace(evaluation(), mean=replace(evaluation().mean, base=None, delta=None))
    assert summary.headline(unbased) == "tuned 38.6 ± 5.0 (acc, % ↑; 640 questions of 16 tasks)"


def test_a_training_ends_with_its_losses_and_alarms():
    result = TrainResult(1, 40, 640, 20_737_680, 6_084_240, {}, alarms=("The KL is rising: so it is.",))
    rows = [LoggedStep({"step": n, "loss_lm": 4.0 if n <= 20 else 1.0, "loss_kl": 1.0}) for n in range(1, 41)]
    assert summary.train_lines(result, rows) == [
        "40 steps on 640 examples; 20,737,680 parameters, 6,084,240 active",
        "loss 4.00 -> 1.00; KL to the topics 1.00 -> 1.00; 1 alarm",
    ]
    assert summary.train_lines(replace(result, alarms=()), [])[1] == "no alarms"


def test_an_export_says_how_near_it_is():
    assert summary.export_lines(EXPORT, {"lora": Path("a/lora")})[1].endswith("96.2 % of answer tokens (good)")
    assert [verdict(value, AGREEMENT) for value in (0.95, 0.9, 0.5)] == ["good", "fair", "weak"]


def test_of_many_tasks_those_that_moved_the_most_are_shown():
    lines = summary.score_lines(evaluation(40))
    assert len(lines) == summary.MOST_TASKS // 2 + 1
    assert lines[-1] == "and 24 more that moved less, in report.md"
    assert "family_number_39" in lines[-2]


def test_alarms_stand_on_the_screen_with_their_steps():
    rows = [LoggedStep({"step": 72}, {"kl_rising": "The KL is rising: 0.5 at the start. Raise loss.kl.weight."})]
    assert screen.alarm_lines(rows) == ["Alarm at step 72: The KL is rising: 0.5 at the start"]
    assert screen.alarm_lines([]) == ["No alarms."]


def test_all_fits_on_one_screen(run):
    recipe = load_recipe("quickstart")
    lines = [
        "Summary",
        *screen.results(run, evaluation(), EXPORT),
        *screen.files(run, exported=True),
        "Next:",
        *(f"  {line}" for line in screen.following(recipe, run, "quickstart", ["algebra", "arithmetic"])),
    ]
    assert len(lines) <= screen.LINES
    facts = [line for line in lines if str(run.path) not in line]
    assert max(map(len, facts)) <= summary.WIDTH, max(facts, key=len)


def test_next_come_commands_that_the_recipe_can_take(run):
    found = screen.following(load_recipe("quickstart"), run, "quickstart", ["algebra", "arithmetic"])
    assert [line.split()[1] for line in found] == ["route", "chat", "merge", "ablate", "recipes", "eval"]
    assert [line for line in found if line.endswith("# reads from a model hub")] == found[-1:]
    assert f"topiclora merge --gates topic:arithmetic --run {run.path}" in found
    plain = load_recipe("quickstart", ["adapter.method=lora", "ablation.cells={}"])
    assert [line.split()[1] for line in screen.following(plain, run, "quickstart", [])] == ["chat", "recipes", "eval"]


def test_a_run_in_its_usual_place_goes_unsaid(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    latest = RunDir.create("runs/mine-1", recipe_yaml="name: mine\n", name="mine", seed=0)
    assert "--run" not in screen.following(load_recipe("quickstart"), latest, "quickstart", [])[0]


@pytest.mark.parametrize(("seconds", "text"), [(4.4, "4 s"), (99, "99 s"), (100, "2 min"), (7200, "2.0 h")])
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text
