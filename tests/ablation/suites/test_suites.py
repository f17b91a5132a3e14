"""Suites by name: what is unknown, what is there twice, and how small quick ones are."""

import pytest

from topiclora_cli.ablation.suites import SUITES, suite_changes
from topiclora_cli.errors import TopicLoraError


def test_an_unknown_suite_is_told_with_the_nearest(recipe):
    with pytest.raises(TopicLoraError, match=r"There is no suite 'componets'\. Did you mean 'components'"):
        suite_changes(recipe, ["componets"], quick=False)


def test_a_suites_cells_stand_in_place_of_the_recipes_own(made):
    recipe, _ = made("components", ablation__cells={"mine": {"train.max_steps": 1}}, ablation__reference="mine")
    assert "mine" not in recipe.ablation.cells
    assert recipe.ablation.reference == "full"


@pytest.mark.parametrize("name", SUITES)
def test_quick_is_smaller_and_asks_for_no_more_than_the_recipe(made, name):
    whole, _ = made(name)
    quick, _ = made(name, quick=True, train__max_steps=3, ablation__seeds=[4, 5], eval__limit=1)
    assert 2 <= len(quick.ablation.cells) <= len(whole.ablation.cells)
    assert quick.train.max_steps == 3
    assert quick.eval.limit == 1
    assert quick.ablation.seeds == [4]


def test_quick_without_a_suite_changes_sizes_alone(recipe):
    values = suite_changes(recipe, [], quick=True).values
    assert values["eval.limit"] == 2
    assert not {"ablation.cells", "ablation.about"} & values.keys()


def test_an_open_number_of_experts_is_refused(made):
    with pytest.raises(TopicLoraError, match=r"adapter\.num_experts is auto"):
        made("components", adapter__num_experts="auto")
