import json

import pytest

from tests.recipe.schema_check import complaints
from topiclora_cli.cli.app import main
from topiclora_cli.recipe import bundled_recipes, dump_recipe, load_recipe
from topiclora_cli.recipe.adapter import every_key
from topiclora_cli.recipe.json_schema import recipe_schema
from topiclora_cli.recipe.methods import METHODS
from topiclora_cli.recipe.spelling import old_loss_keys
from topiclora_cli.recipe.yaml_text import read_yaml

SCHEMA = recipe_schema()
OLD_LOSSES = {old: key.split(".") for old, key in old_loss_keys().items()}
LEAST = {"name": "mine", "model": {"name": "some/model"}}


@pytest.mark.parametrize("name", bundled_recipes())
def test_the_schema_takes_every_bundled_recipe(name):
    assert complaints(read_yaml(bundled_recipes()[name].read_text(encoding="utf-8")), SCHEMA, SCHEMA) == []


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ({"tain": {}}, ".tain"),
        ({"train": {"learning_rat": 1e-3}}, ".train.learning_rat"),
        ({"train": {"learning_rate": 0}}, ".train.learning_rate"),
        ({"train": {"lr_scheduler": "cosin"}}, ".train.lr_scheduler"),
        ({"adapter": {"method": "topicloar"}}, ".adapter.method"),
        ({"adapter": {"method": "lora", "router": "linear"}}, ".adapter.router"),
        ({"adapter": {"variant": "dense"}}, ".adapter.variant"),
        ({"adapter": {"method": "perft-r", "use_dora": True}}, ".adapter.use_dora"),
        ({"adapter": {"rank": 8}}, ".adapter.rank"),
        ({"adapter": {"r": True}}, ".adapter.r"),
        ({"adapter": {"router": "soft"}}, ".adapter.router"),
        ({"data": {"sources": [{"sourc": "a.jsonl"}]}}, ".data.sources.0.sourc"),
        ({"ablation": {"seeds": []}}, ".ablation.seeds"),
        ({"loss": {"kl_weigh": 0.1}}, ".loss.kl_weigh"),
        ({"loss": {"kl_weight": -0.1}}, ".loss.kl_weight"),
        ({"loss": {"prior_forcing": 1.5}}, ".loss.prior_forcing"),
        ({"loss": {"kl": 0.1}}, ".loss.kl"),
        ({"name": "two words"}, ".name"),
    ],
)
def test_the_schema_refuses_a_wrong_key_or_value_at_its_place(wrong, place):
    assert [text.split(":")[0] for text in complaints({**LEAST, **wrong}, SCHEMA, SCHEMA)][:1] == [place]


def test_the_schema_asks_for_a_name_and_a_model():
    assert complaints(LEAST, SCHEMA, SCHEMA) == []
    assert complaints({"name": "mine"}, SCHEMA, SCHEMA)


@pytest.mark.parametrize("method", METHODS)
def test_the_schema_takes_what_every_method_itself_sets(method):
    own = {"adapter": {"method": method, **METHODS[method].adapter}, "train": dict(METHODS[method].train)}
    assert complaints({**LEAST, **own}, SCHEMA, SCHEMA) == []


@pytest.mark.parametrize("method", METHODS)
def test_the_schema_takes_what_a_run_keeps(method, tmp_path):
    (tmp_path / "r.yaml").write_text("name: r\nmodel: {name: m}\nseed: 3\n")
    own = [f"adapter.method={method}", *(["adapter.init_from=[a]"] if method == "xlora" else [])]
    kept = read_yaml(dump_recipe(load_recipe(str(tmp_path / "r.yaml"), own)))
    assert kept["said"]
    assert complaints(kept, SCHEMA, SCHEMA) == []
    # An earlier version wrote losses flat, and the keys of every kind of adapter.
    losses = {old: kept["loss"][term][key] for old, (term, key) in OLD_LOSSES.items()}
    assert complaints({**kept, "loss": losses, "adapter": every_key(kept["adapter"])}, SCHEMA, SCHEMA) == []


def test_what_earlier_versions_wrote_is_deprecated_and_not_proposed():
    losses = SCHEMA["$defs"]["LossSection"]
    assert not old_loss_keys().keys() & losses["properties"].keys() - {"prior_forcing"}
    assert losses["patternProperties"]["^kl_weight$"]["deprecated"] is True
    assert losses["patternProperties"]["^kl_weight$"]["description"].startswith("Called loss.kl.weight now.")


def test_keys_are_described():
    keys = SCHEMA["$defs"]["TrainSection"]["properties"]
    assert keys["epochs"]["description"].startswith("How often every example is trained on")
    assert keys["fsdp"]["description"].startswith("Shard the model over GPUs")
    assert SCHEMA["$defs"]["LossSection"]["properties"]["gjs"]["description"].startswith("HMoRA's")


def test_the_command_prints_the_schema_alone(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["recipes", "schema"])
    assert not stop.value.code
    assert json.loads(capsys.readouterr().out) == SCHEMA
