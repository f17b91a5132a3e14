"""What later stages start from: the base that the adapter was trained on, or none."""

import json

import pytest

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import build_recipe
from topiclora_cli.runs.run import RunDir
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
