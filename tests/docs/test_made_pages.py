"""The references of the documentation hold all that there is; how they look is the build's matter (make docs)."""

import re

import pytest

from tests.docs.pages import ROOT
from topiclora_cli.recipe import bundled_recipes
from topiclora_cli.recipe.keys import recipe_keys
from topiclora_cli.recipe.methods import METHODS
from topiclora_cli.recipe.references import REFERENCES


@pytest.fixture(autouse=True)
def hooks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "hooks"))


def test_every_key_has_its_meaning_on_the_page_of_recipes():
    from recipe_keys import recipe_page

    page = recipe_page()
    for key in recipe_keys():
        head = rf"^#+ {re.escape(key.name)}$" if key.is_section else rf"^`{re.escape(key.name)}` "
        assert re.search(head, page, re.MULTILINE), key.name
        assert key.meaning in page


def test_every_method_says_where_it_comes_from_and_where_it_deviates():
    from method_sources import methods_page

    page = methods_page()
    for name in METHODS:
        assert f"\n## {name}\n" in page
        assert all(each.what in page for each in REFERENCES[name].deviations)


def test_every_bundled_recipe_is_there_in_full():
    from bundled_recipes import recipes_page

    page = recipes_page()
    assert all(path.read_text(encoding="utf-8").rstrip() in page for path in bundled_recipes().values())
