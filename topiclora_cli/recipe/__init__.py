"""Recipes: the YAML that describes a run, checked before anything is loaded."""

from topiclora_cli.recipe.ablation import BASE, FULL
from topiclora_cli.recipe.load import altered, build_recipe, bundled_recipes, dump_recipe, find_recipe, load_recipe
from topiclora_cli.recipe.load import differences as differences
from topiclora_cli.recipe.load import read_recipe as read_recipe
from topiclora_cli.recipe.load import with_experts as with_experts
from topiclora_cli.recipe.overrides import parse_override as parse_override
from topiclora_cli.recipe.overrides import with_overrides as with_overrides
from topiclora_cli.recipe.paths import anchored as anchored
from topiclora_cli.recipe.schema import Recipe

__all__ = [
    "BASE",
    "FULL",
    "Recipe",
    "altered",
    "anchored",
    "build_recipe",
    "bundled_recipes",
    "differences",
    "dump_recipe",
    "find_recipe",
    "load_recipe",
    "parse_override",
    "read_recipe",
    "with_experts",
    "with_overrides",
]
