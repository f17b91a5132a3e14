"""Recipes on the tiny models, for suites to be made of."""

from typing import Any

import pytest

from topiclora_cli.ablation.suites import suite_changes
from topiclora_cli.recipe import altered, load_recipe


@pytest.fixture
def recipe(tiny_recipe):
    """The tiny recipe, a mixture with topics on a dense base."""
    return load_recipe(str(tiny_recipe))


@pytest.fixture
def made(recipe):
    """What a suite asks of the tiny recipe with a few keys changed: (the recipe with it, its notes)."""

    def make(*names: str, quick: bool = False, **changes: Any):
        said = altered(recipe, [(key.replace("__", "."), value) for key, value in changes.items()], where="test")
        found = suite_changes(said, names, quick=quick)
        return altered(said, found.values.items(), where="test"), list(found.notes)

    return make
