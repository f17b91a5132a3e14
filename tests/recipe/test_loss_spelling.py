"""The loss section's old flat keys are read as what they are called now, wherever a recipe may say them."""

import re
import warnings

import pytest
import yaml

from topiclora_cli.ablation.folders import open_cell
from topiclora_cli.ablation.grid import make_grid
from topiclora_cli.errors import OldSpelling, TopicLoraError
from topiclora_cli.recipe import altered, build_recipe, dump_recipe, load_recipe
from topiclora_cli.recipe.adapter import FIELDS
from topiclora_cli.recipe.loss import LOSS_KEYS
from topiclora_cli.recipe.spelling import respelt, respelt_keys
from topiclora_cli.runs.files import write_json
from topiclora_cli.runs.run import RunDir
from topiclora_cli.training.checkpoints import SETTINGS, decisive_settings, refuse_other_settings

pytestmark = pytest.mark.filterwarnings("ignore::topiclora_cli.errors.OldSpelling")

OLD = {
    "kl_weight": 0.4,
    "kl_floor": 0.2,
    "temperature": 2.0,
    "prior_smoothing": 0.1,
    "prior_forcing": 0.7,
    "prior_forcing_until": 0.9,
    "confidence_weighted": False,
    "balance_weight": 0.01,
    "balance_counts": "tokens",
    "reduce_routers": "pool",
}
NEW = {
    "kl": {"weight": 0.4, "floor": 0.2, "temperature": 2.0, "smoothing": 0.1, "confidence_weighted": False},
    "prior_forcing": {"start": 0.7, "until": 0.9},
    "balance": {"weight": 0.01, "counts": "tokens"},
    "reduce_routers": "pool",
}
CELLS = {"a": {"loss.kl_weight": 0}, "b": {"loss": {"z_weight": 0.1}}, "c": {"loss.kl_layers": "all"}}
RESPELT = {"a": {"loss.kl.weight": 0}, "b": {"loss": {"z": {"weight": 0.1}}}, "c": {"loss.kl.layers": "all"}}
# The old keys that were not the term's name and the setting's.
ODD = {
    "kl.temperature": "temperature",
    "kl.smoothing": "prior_smoothing",
    "kl.confidence_weighted": "confidence_weighted",
    "prior_forcing.start": "prior_forcing",
}
SINCE = {"kl.label"}  # keys that no earlier version had


def recipe(loss, **values):
    return build_recipe({"name": "x", "model": {"name": "m"}, "loss": loss, **values}, where="here")


def flat(losses):
    """A loss section by its old keys."""
    keys = {}
    for term, settings in losses.items():
        for name, value in settings.items() if isinstance(settings, dict) else [("", settings)]:
            if f"{term}.{name}" not in SINCE:
                keys[ODD.get(f"{term}.{name}", f"{term}_{name}".strip("_"))] = value
    return keys


def as_before(recipe):
    """A resolved recipe as an earlier version wrote it down."""
    values = yaml.safe_load(dump_recipe(recipe))
    values["loss"] = flat(values["loss"])
    values["said"]["loss"] = flat(values["said"].get("loss", {}))
    return values


def test_old_keys_are_the_new_ones_in_a_recipe_and_in_changes(tmp_path):
    assert recipe(OLD) == recipe(NEW)
    assert recipe(OLD).said["loss"] == NEW
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump({"name": "x", "model": {"name": "m"}, "loss": OLD}))
    assert load_recipe(str(path)) == recipe(NEW)
    path.write_text(yaml.safe_dump({"name": "x", "model": {"name": "m"}}))
    assert load_recipe(str(path), [(f"loss.{key}", value) for key, value in OLD.items()]).loss == recipe(NEW).loss
    assert load_recipe(str(path), ["loss.prior_forcing=0.5"]).loss.prior_forcing.start == 0.5
    assert altered(recipe({}), [("loss", OLD)], where="here").loss == recipe(NEW).loss


def test_every_setting_that_an_earlier_version_had_has_an_old_name():
    old = flat(recipe({}).loss.model_dump())
    assert {f"loss.{key}" for key in {*LOSS_KEYS} - SINCE} == set(respelt_keys({f"loss.{key}": 0 for key in old}))


def test_a_grid_says_the_new_keys():
    grid = recipe({}, ablation={"cells": CELLS, "tune": {"loss.kl_weight": [1, 2]}, "overrides": {"loss.z_weight": 1}})
    assert grid.ablation.cells == RESPELT
    assert grid.ablation.tune == {"loss.kl.weight": [1, 2]}
    assert grid.ablation.overrides == {"loss.z.weight": 1}


@pytest.mark.parametrize(
    ("said", "old"),
    [
        ({"loss": {"kl_weight": 0.1, "kl": {"weight": 0.1}}}, "kl_weight"),
        ({"ablation": {"cells": {"a": {"loss.z_weight": 0, "loss.z.weight": 1}}}}, "z_weight"),
    ],
)
def test_both_spellings_of_one_key_are_an_error(said, old):
    new = re.escape(old.replace("_", "."))
    message = rf"here: loss\.{old} and loss\.{new} are one setting.*Leave loss\.{old} out"
    with pytest.raises(TopicLoraError, match=message):
        recipe(said.get("loss", {}), ablation=said.get("ablation", {}))


def test_both_spellings_in_one_call_are_an_error_and_one_over_another_is_none():
    with pytest.raises(TopicLoraError, match=r"loss\.z_weight and loss\.z\.weight are one setting"):
        altered(recipe({}), [("loss.z_weight", 0), ("loss.z.weight", 0)], where="here")
    assert altered(recipe({"kl": {"weight": 0.3}}), [("loss.kl_weight", 0.2)], where="here").loss.kl.weight == 0.2


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"kl": 0.5}, r"loss\.kl: not a mapping, such as \{weight: 0\.1\} \(given: 0\.5\)"),
        ({"kl_wieght": 0.5}, r"unknown key 'loss\.kl_wieght'.*'kl\.weight'"),
        ({"kl": {"wieght": 0.5}}, r"unknown key 'loss\.kl\.wieght'.*'weight'"),
        ({"kl_weight": -1}, r"loss\.kl\.weight: .*greater than or equal to 0"),
        ({"prior_forcing": 2}, r"loss\.prior_forcing\.start: .*less than or equal to 1"),
        ({"balance_scores": "excess"}, r"loss\.balance\.scores means nothing to the topic router"),
    ],
)
def test_mistakes_name_the_new_key(loss, message):
    with pytest.raises(TopicLoraError, match=message):
        recipe(loss)


@pytest.mark.parametrize("method", ["topiclora", "mixlora", "lora"])
def test_a_run_of_an_earlier_version_opens_as_what_it_was(method, tmp_path):
    before = recipe({} if method == "lora" else {"kl": {"weight": 0.3}}, adapter={"method": method})
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(as_before(before)))
    with pytest.warns(OldSpelling, match=r"loss\.kl_weight is called loss\.kl\.weight now"):
        opened = load_recipe(str(path))
    assert opened == before
    assert opened.said == before.said


def test_a_grid_that_an_earlier_version_began_goes_on(tmp_path):
    grid = make_grid(recipe(NEW, data={"validation": 4}, ablation={"tune": {"loss.kl_weight": [0.1, 0.2]}}))
    assert [cell.folder for cell in grid] == ["full-s0-kl_weight=0.1", "full-s0-kl_weight=0.2"]
    for cell in grid:
        written = yaml.safe_dump(as_before(cell.recipe))
        RunDir.create(tmp_path / cell.folder, recipe_yaml=written, name=cell.name, seed=cell.seed)
        assert open_cell(tmp_path, cell) is not None


def test_a_checkpoint_of_an_earlier_version_is_resumed_and_a_change_named(tmp_path):
    settings = decisive_settings(recipe({}), 1)
    old = {f"loss.{key}": value for key, value in flat(recipe({}).loss.model_dump()).items()}
    kept = {key for key in settings if not key.startswith("loss.") or key.removeprefix("loss.") in SINCE}
    before = {key: settings[key] for key in kept} | old
    write_json(tmp_path / SETTINGS, before)
    refuse_other_settings(tmp_path, settings)
    with pytest.raises(TopicLoraError, match=r"loss\.kl\.weight was 0\.1 and is 0\.2 now"):
        refuse_other_settings(tmp_path, decisive_settings(recipe({"kl": {"weight": 0.2}}), 1))
    del before["loss.kl_tokens"]
    write_json(tmp_path / SETTINGS, before)
    with pytest.raises(TopicLoraError, match=r"a version of topiclora that had no loss\.kl\.tokens"):
        refuse_other_settings(tmp_path, settings)


@pytest.mark.parametrize(("method", "other"), [("topiclora", "lora"), ("lora", "perft-r"), ("perft-r", "topiclora")])
def test_a_checkpoint_that_lists_the_keys_of_every_kind_of_adapter_is_resumed(method, other, tmp_path):
    settings, changed = (decisive_settings(recipe({}, adapter={"method": name}), 1) for name in (method, other))
    write_json(tmp_path / SETTINGS, {f"adapter.{key}": field.default for key, field in FIELDS.items()} | settings)
    refuse_other_settings(tmp_path, settings)
    with pytest.raises(TopicLoraError, match=r"is of another recipe: adapter\."):
        refuse_other_settings(tmp_path, changed)


def test_nothing_is_noted_of_new_keys():
    with warnings.catch_warnings():
        warnings.simplefilter("error", OldSpelling)
        assert respelt({"loss": NEW, "ablation": {"cells": RESPELT}}, where="here")["loss"] == NEW


def test_the_command_line_notes_old_keys_once(run_cli):
    code, text = run_cli("methods", "topiclora", "--set", "loss.kl_weight=0.2", "--set", "loss.z_weight=0.1")
    assert code == 0, text
    assert text.count("note: loss.") == 1
    assert "note: loss.kl_weight is called loss.kl.weight now; the loss section's old names are read, too." in text
    assert "kl 0.2, z 0.1" in text
