"""Settings that fit one another on no model are told before anything is made for one."""

import pytest

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import build_recipe
from topiclora_cli.recipe.methods import METHODS
from topiclora_cli.stages.build_graph import build_graph
from topiclora_cli.training.attach import refuse_contradictions


def section(**adapter):
    return build_recipe({"name": "x", "model": {"name": "m"}, "adapter": adapter}, where="here").adapter


@pytest.mark.parametrize("method", METHODS)
def test_no_method_contradicts_itself(method):
    refuse_contradictions(section(method=method, **({"init_from": ["a"]} if method == "xlora" else {})))


@pytest.mark.parametrize(
    "adapter",
    [
        {"target_modules": "attention", "layers_to_transform": [0]},  # a role is no regular expression
        {"num_experts": "auto", "top_k": 9},
        {"init_from": ["a", "b"], "shared_experts": 20},
        {"experts_by_depth": [2, 4, 8], "ranks_by_depth": [4, 8], "shared_experts": 2},
    ],
)
def test_what_may_fit_is_let_through(adapter):
    refuse_contradictions(section(**adapter))


def test_stage_1_is_not_begun():
    recipe = build_recipe(
        {"name": "x", "model": {"name": "m"}, "adapter": {"mixing": "ffn", "router_scope": "linear"}}, where="here"
    )
    with pytest.raises(TopicLoraError, match="mixing: ffn needs one decision for a whole block"):
        build_graph(recipe, None, None)
