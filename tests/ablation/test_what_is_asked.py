"""What is asked on the command line becomes the recipe's grid, and is added to that of a run which is there."""

from pathlib import Path

import pytest

from topiclora_cli.ablation.asking import Asked, ask
from topiclora_cli.ablation.axes import parse_axes
from topiclora_cli.ablation.grid import make_grid
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import altered, build_recipe, dump_recipe, load_recipe
from topiclora_cli.runs.run import RunDir

OWN = {"kl_off": {"loss.kl.weight": 0.0}}


def recipe(**ablation):
    values = {"name": "x", "model": {"name": "m"}, "adapter": {"r": 4}, "data": {"per_family": 4}}
    return build_recipe({**values, "ablation": ablation}, where="here")


def asking(*grid, tune=(), **more):
    return Asked(axes=parse_axes(grid), tune=parse_axes(tune, option="--tune"), **more)


@pytest.fixture
def begun(tmp_path):
    """A run's cells, of which one is there."""

    def make(settings):
        for cell in make_grid(settings)[:1]:
            path = tmp_path / cell.folder
            RunDir.create(path, recipe_yaml=dump_recipe(cell.recipe), name=cell.name, seed=cell.seed)
        return tmp_path

    return make


def test_what_is_asked_takes_the_place_of_a_recipe_s_own_grid():
    settings, notes = ask(recipe(cells=OWN, reference="kl_off"), asking("adapter.r=2,8", seeds=(3, 4)))
    assert settings.ablation.cells == {"r=2": {"adapter.r": 2}, "r=8": {"adapter.r": 8}}
    assert (settings.ablation.seeds, settings.ablation.reference) == ([3, 4], "full")
    assert notes == ["The recipe's own cells make room: kl_off."]
    assert [cell.folder for cell in make_grid(settings)][:3] == ["full-s3", "r=2-s3", "r=8-s3"]


def test_seeds_and_reference_alone_leave_the_cells():
    settings, notes = ask(recipe(cells=OWN), Asked(seeds=(1,), reference="kl_off"))
    assert (settings.ablation.cells, settings.ablation.seeds) == (OWN, [1])
    assert (settings.ablation.reference, notes) == ("kl_off", [])


def test_a_cell_that_is_the_recipe_itself_is_not_trained_twice():
    settings, notes = ask(recipe(), asking("adapter.r=4,8", "loss.kl.weight=0.1,0.3", one_factor=True, reference="r=4"))
    assert list(settings.ablation.cells) == ["r=8", "kl_weight=0.3"]
    assert settings.ablation.reference == "full"
    assert notes == [
        "adapter.r=4 is the recipe itself, which is called full.",
        "loss.kl.weight=0.1 is the recipe itself, which is called full.",
    ]


def test_a_run_s_grid_grows_and_its_cells_stay(begun):
    settings = recipe(cells=OWN)
    folder = begun(settings)
    more, notes = ask(settings, asking("loss.kl.weight=0,0.3", seeds=(0, 2)), folder=folder)
    assert more.ablation.cells == {**OWN, "kl_weight=0.3": {"loss.kl.weight": 0.3}}
    assert more.ablation.seeds == [0, 2]
    assert notes == ["loss.kl.weight=0 is a cell that is there, which is called kl_off."]
    again, notes = ask(more, asking("loss.kl.weight=0.3"), folder=folder)
    assert (again.ablation.cells, notes) == (more.ablation.cells, [])


def test_suites_and_axes_are_one_grid_and_a_small_one_is_small(tiny_recipe, begun, tmp_path):
    tiny = load_recipe(str(tiny_recipe), ["train.max_steps=20", "eval.limit=2"])
    settings, notes = ask(tiny, asking("adapter.r=2,8", suites=("components",), quick=True))
    cells = settings.ablation.cells
    assert list(cells)[-1] == "r=8"
    assert len(cells) > 1
    assert settings.train.max_steps < 20
    assert "adapter.r=2 is the recipe itself, which is called full." in notes
    small = ask(tiny, Asked(quick=True))[0]
    there, _ = ask(tiny, Asked(quick=True), folder=tmp_path / "none")
    assert (there.train.max_steps, there.ablation.overrides["train.max_steps"]) == (20, small.train.max_steps)
    folder = begun(small)
    more, _ = ask(small, Asked(suites=("components",), quick=True), folder=folder)
    assert more.ablation.cells == {**tiny.ablation.cells, **{name: cells[name] for name in cells if name != "r=8"}}
    with pytest.raises(TopicLoraError, match=r"--quick wants train\.max_steps: 8, and the run's cells have 20"):
        ask(tiny, Asked(quick=True), folder=folder)


def test_values_to_tune_are_added_and_no_key_to_a_run_that_began(begun):
    settings = altered(recipe(tune={"train.learning_rate": [0.1]}), [("data.validation", 8)], where="here")
    folder = begun(settings)
    more, notes = ask(settings, asking(tune=["train.learning_rate=0.01,0.1"]), folder=folder)
    assert (more.ablation.tune, notes) == ({"train.learning_rate": [0.1, 0.01]}, [])
    with pytest.raises(TopicLoraError, match=r"--tune adapter\.r: the run's cells were trained without a choice of it"):
        ask(settings, asking(tune=["adapter.r=2,4"]), folder=folder)


def test_a_value_that_one_folder_would_hold_with_one_that_is_there_is_refused():
    settings = altered(recipe(tune={"train.learning_rate": [0.0012345678]}), [("data.validation", 8)], where="here")
    with pytest.raises(TopicLoraError, match=r"--tune: two values of train\.learning_rate would be called"):
        ask(settings, asking(tune=["train.learning_rate=0.0012345679"]), folder=Path("none"))


def test_tuning_holds_examples_out_and_says_how_many():
    settings, notes = ask(recipe(), asking(tune=["train.learning_rate=0.01,0.1"]))
    assert settings.ablation.tune == {"train.learning_rate": [0.01, 0.1]}
    assert {cell.recipe.data.validation for cell in make_grid(settings)} == {8}
    assert notes == ["data.validation=8: the best values are chosen by the loss on so many examples."]
    held_out = altered(recipe(), [("data.validation", 5)], where="here")
    assert ask(held_out, asking(tune=["train.learning_rate=0.01,0.1"]))[1] == []


def test_a_search_takes_ranges_and_goes_on_with_more_trials(begun):
    held_out = altered(recipe(), [("data.validation", 8)], where="here")
    searching = asking(tune=["train.learning_rate=1e-4..1e-2:log"], search="optuna", trials=3)
    settings, _ = ask(held_out, searching)
    section = settings.ablation
    assert (section.search, section.trials, section.tune["train.learning_rate"]) == ("optuna", 3, ["1e-4..1e-2:log"])
    assert [cell.trials for cell in make_grid(settings) if cell.name == "full"] == [3]
    assert ask(settings, Asked(trials=5), folder=begun(settings))[0].ablation.trials == 5


def test_files_that_an_axis_names_are_found_from_elsewhere(tmp_path, monkeypatch, begun):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").touch()
    settings = recipe()
    for folder in (None, begun(settings)):
        cells = ask(settings, asking("graph.taxonomy=mine.yaml,mmlu"), folder=folder)[0].ablation.cells
        assert cells["taxonomy=mine.yaml"] == {"graph.taxonomy": str(tmp_path / "mine.yaml")}
        assert cells["taxonomy=mmlu"] == {"graph.taxonomy": "mmlu"}


@pytest.mark.parametrize(
    ("grid", "more", "message"),
    [
        (["adapter.num_expert=2"], {}, "--grid: unknown key 'adapter.num_expert'. Did you mean 'num_experts'"),
        (
            ["adapter.r.x=4"],
            {},
            r"--grid adapter\.r\.x: 'adapter\.r' is a value, not a section\. Did you mean 'adapter\.r'",
        ),
        (["adapter.alpha.x=4"], {}, "--grid: unknown key 'adapter.alpha'. Did you mean 'lora_alpha'"),
        (
            ["train.save_steps.x=4"],
            {},
            "--grid: 'train.save_steps' is a value, not a section. Did you mean 'train.save_st",
        ),
        (["adapter.r=4,many"], {}, r"--grid: adapter\.r: .*integer.*\(given: 'many'\)"),
        (["train.learning_rate=-1.0"], {}, r"--grid: train\.learning_rate: .*greater than 0 \(given: -1\.0\)"),
        (["seed=1,2"], {}, "seed is no axis of its own: all cells have the same. Use --seeds"),
        (["ablation.base=true"], {}, "ablation.base is no axis"),
        (["adapter.r=8"], {"tune": ["adapter.r=2,8"]}, "adapter.r is an axis of --grid and a key to --tune"),
        (["adapter.r=8"], {"reference": "r=9"}, "--reference r=9: there is no such cell. Did you mean 'r=8'"),
        (["train.epochs=7,7.0000001"], {}, "two cells would be called 'epochs=7'"),
        (["loss.kl={weight: 1}"], {"tune": ["loss.kl.weight=2"]}, "loss.kl is an axis of --grid and a key to --tune"),
        ([], {"one_factor": True}, "--one-factor has no --grid to take apart"),
        ([], {"tune": ["adapter.r+adapter.top_k=2:1"]}, r"--tune adapter.r\+adapter.top_k names several keys"),
        ([], {"tune": ["adapter.r.x=2,3"]}, r"--tune adapter\.r\.x: 'adapter\.r' is a value, not a section\. Did you"),
        ([], {"tune": ["train.learning_rate=1,fast"]}, r"--tune: train\.learning_rate: .*\(given: 'fast'\)"),
        (
            [],
            {"tune": ["train.learing_rate=1,2"]},
            "--tune: unknown key 'train.learing_rate'. Did you mean 'learning_rate'",
        ),
        ([], {"tune": ["train.save_steps=1", "train.save_steps=2"]}, "--tune: train.save_steps has two axes"),
        (
            [],
            {"tune": ["train.learning_rate=0.0012345678,0.0012345679"]},
            "--tune: two values of train.learning_rate would be called 'learning_rate=0.00123457'",
        ),
        ([], {"tune": ["eval.limit=2,3"]}, "tune: eval.limit is the same for all"),
    ],
)
def test_mistakes(grid, more, message):
    with pytest.raises(TopicLoraError, match=message):
        ask(recipe(), asking(*grid, **more))
