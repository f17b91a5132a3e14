"""What later stages start from: the base that the adapter was trained on, or none."""

import json

import pytest

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import build_recipe, dump_recipe
from topiclora_cli.runs.run import RunDir
from topiclora_cli.stages import inputs
from topiclora_cli.stages.inputs import adapter_folder


@pytest.fixture
def run(tmp_path):
    """A run whose adapter was trained on the named base."""

    def make(base):
        run = RunDir.create(tmp_path / "run", recipe_yaml="", name="x", seed=0)
        (run.path / "adapter").mkdir()
        (run.path / "adapter" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
        return run

    return make


def recipe(base):
    return build_recipe({"name": "x", "model": {"name": str(base)}}, where="x")


@pytest.mark.parametrize(
    ("trained_on", "here"), [("org/b", "org/a"), ("/gone/b", "org/a"), ("{tmp}/one/m", "{tmp}/two/m")]
)
def test_an_adapter_of_another_base_is_refused(trained_on, here, run, tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder / "m").mkdir(parents=True)
    trained_on, here = (name.format(tmp=tmp_path) for name in (trained_on, here))
    with pytest.raises(TopicLoraError, match=f"was trained on {trained_on}, and the recipe's model.name is {here}"):
        adapter_folder(recipe(here), run(trained_on))


@pytest.mark.parametrize(("trained_on", "here"), [("org/a", "org/a"), ("/gone/a", "org/a"), (None, "org/a")])
def test_a_base_of_the_same_name_is_taken(trained_on, here, run):
    made = run(trained_on)
    assert adapter_folder(recipe(here), made) == made.path / "adapter"


def upcycled(base, experts):
    model = {"name": str(base), "upcycle": {"experts": experts, "top_k": 1}}
    return build_recipe({"name": "x", "model": model, "adapter": {"method": "perft-r"}}, where="x")


@pytest.mark.parametrize("trained_on", ["upcycled:m-1111", "/cache/models/m-1111"])
def test_an_upcycled_base_is_known_when_its_dense_files_got_other_times(trained_on, run, tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "base_source", lambda *_, **__: "/cache/models/m-2222")
    made = run(trained_on)
    (made.path / "recipe.yaml").write_text(dump_recipe(upcycled("/elsewhere/m", 2)))
    assert adapter_folder(upcycled(tmp_path / "m", 2), made) == made.path / "adapter"
    for other in (upcycled(tmp_path / "m", 4), upcycled(tmp_path / "n", 2)):
        with pytest.raises(TopicLoraError, match=f"was trained on {trained_on}"):
            adapter_folder(other, made)


def test_a_name_that_no_recipe_can_have_is_not_advised(run):
    with pytest.raises(TopicLoraError, match=r"Set model.name and model.upcycle as they are in .*recipe\.yaml"):
        adapter_folder(recipe("org/a"), run("upcycled:m-1111"))
