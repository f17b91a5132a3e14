"""What a name on the command line stands for, and which runs stand together."""

import pytest
import yaml

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.evaluation.comparison.compare import compare
from topiclora_cli.evaluation.comparison.places import find_place
from topiclora_cli.recipe import load_recipe
from topiclora_cli.recipe.adapter import FIELDS
from topiclora_cli.runs.results.evaluation import EvalSummary, TaskScores
from topiclora_cli.runs.results.files import write_result
from topiclora_cli.runs.run import RunDir

NONE = dict.fromkeys(("base", "base_stderr", "tuned_stderr", "delta", "delta_stderr"))


@pytest.fixture
def run_with(tmp_path, lm_eval_folder):
    """Make a run: evaluation -> side -> accuracies of the task `sums`; headline: the metric that it went by."""

    def make(name, evaluations, *, seed=0, model="m", steps=1, headline="acc"):
        recipe = {"name": "x", "seed": seed, "model": {"name": model}, "train": {"max_steps": steps}}
        RunDir.create(tmp_path / name, recipe_yaml=yaml.safe_dump(recipe), name=name, seed=seed)
        for evaluation, sides in evaluations.items():
            folder = tmp_path / name / "eval" / evaluation
            for side, right in sides.items():
                scores = {"acc": list(map(float, right)), "choice_loss": [1.0 - each / 2 for each in right]}
                lm_eval_folder(f"{name}/eval/{evaluation}/{side}", {"sums": scores})
            row = TaskScores(
                **{"unit": "", "higher_is_better": True, "tuned": 0.5, **NONE},
                **{"task": "sums", "group": False, "depth": 0, "counted": True},
                **{"metric": headline, "filter": "none", "count": 2, "metrics": {}},
            )
            write_result(folder / "summary.json", EvalSummary(name=evaluation, mean=None, tasks=(row,)))
        return str(tmp_path / name)

    return make


def test_a_run_is_its_latest_evaluation_unless_one_is_named(run_with):
    run = run_with("run", {"early": {"tuned": [0, 0]}, "late": {"tuned": [1, 1], "base": [0, 1]}})
    for name, folder in (
        (run, "late/tuned"),
        (f"{run}:early", "early/tuned"),
        (f"{run}/eval/early", "early/tuned"),
        (f"{run}/eval/late/base", "late/base"),
    ):
        assert str(find_place(name).answers.folder) == f"{run}/eval/{folder}"
    (found,) = compare([f"{run}:early", f"{run}:late"])
    assert (found.side, found.baseline) == (f"{run}:late", f"{run}:early")
    with pytest.raises(TopicLoraError, match=r"has no evaluation 'lat'\. Did you mean 'late'"):
        find_place(f"{run}:lat")
    with pytest.raises(TopicLoraError, match="has no finished evaluation"):
        find_place(run_with("none", {}))


def test_the_base_of_a_run_is_a_baseline_for_all(run_with):
    one = run_with("one", {"e": {"tuned": [1, 1], "base": [0, 1]}})
    two = run_with("two", {"e": {"tuned": [0, 0]}}, steps=2)
    found = compare([one, two], baseline="base")
    assert [(each.side, each.baseline, each.rows[0].difference.mean) for each in found] == [
        ("one", "base", 0.5),
        ("two", "base", -0.5),
    ]
    # The base itself is no side.
    assert [each.side for each in compare([one, two, f"{one}/eval/e/base"], baseline="base")] == ["one", "two"]
    three = run_with("three", {"e": {"tuned": [0, 0]}}, model="other")
    with pytest.raises(TopicLoraError, match="different base models"):
        compare([one, three], baseline="base")


def test_runs_that_differ_in_their_seed_alone_are_one_side(run_with):
    plain = [run_with(f"plain-{seed}", {"e": {"tuned": [0, seed]}}, seed=seed) for seed in (0, 1)]
    longer = [run_with(f"longer-{seed}", {"e": {"tuned": [1, 1]}}, seed=seed, steps=2) for seed in (0, 1, 2)]
    (found,) = compare([*plain, *longer])
    assert (found.side, found.baseline) == ("longer-0 (seeds 0, 1, 2)", "plain-0 (seeds 0, 1)")
    assert found.notes[0] == "Runs of seeds that one side lacks are left out: 1."
    assert found.notes[1].startswith("2 seeds say little of what other seeds would do")
    assert (found.rows[0].baseline, found.rows[0].test) == (0.25, "bootstrap")
    # Two seeds alone are what there is to compare.
    assert compare(plain)[0].rows[0].difference.mean == 0.5
    with pytest.raises(TopicLoraError, match="share no seed"):
        compare([*plain, *[run_with(f"far-{seed}", {"e": {"tuned": [1, 1]}}, seed=seed, steps=3) for seed in (7, 8)]])


def test_the_metric_is_the_one_that_the_evaluation_went_by(run_with):
    one = run_with("one", {"e": {"tuned": [0, 1]}}, headline="choice_loss")
    two = run_with("two", {"e": {"tuned": [1, 1]}}, steps=2)
    assert compare([one, two])[0].rows[0].metric == "choice_loss"
    assert compare([one, two], baseline=two)[0].rows[0].metric == "acc"


def test_runs_of_one_recipe_are_one_side_though_an_earlier_version_wrote_the_first(run_with, tmp_path):
    runs = [run_with(f"run-{seed}", {"e": {"tuned": [1, seed % 2]}}, seed=seed) for seed in (0, 1)]
    other = run_with("other-0", {"e": {"tuned": [0, 1]}}, steps=2)
    now = load_recipe(str(tmp_path / "run-0/recipe.yaml")).model_dump(mode="json")
    terms = {name: settings for name, settings in now["loss"].items() if isinstance(settings, dict)}
    before = {f"{name}_weight": settings["weight"] for name, settings in terms.items() if "weight" in settings}
    adapter = {**{key: field.default for key, field in FIELDS.items()}, **now["adapter"]}
    (tmp_path / "run-0/recipe.yaml").write_text(yaml.safe_dump({**now, "loss": before, "adapter": adapter}))
    (found,) = compare([other, *runs])
    assert found.side.startswith("run-0")
    assert found.notes[0].startswith("2 seeds say little")


@pytest.mark.parametrize("damaged", ["", "[1]", "name: x\nnew: 1\n", None])
def test_a_recipe_that_cannot_be_read_is_one_line(damaged, run_with, tmp_path):
    runs = [run_with(name, {"e": {"tuned": [1, 0]}}) for name in "ab"]
    (tmp_path / "b/recipe.yaml").unlink() if damaged is None else (tmp_path / "b/recipe.yaml").write_text(damaged)
    with pytest.raises(TopicLoraError, match=r"b/recipe\.yaml"):
        compare(runs)
