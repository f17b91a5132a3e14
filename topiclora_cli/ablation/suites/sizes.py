"""Cells of one size: what the recipe's own adapter counts, and other methods at as many parameters and one slope."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from topiclora_cli.adapters.moe_blocks import moe_blocks
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import Recipe, altered
from topiclora_cli.recipe.adapter import KINDS, SizedSection
from topiclora_cli.recipe.adapter.experts import ExpertsSection
from topiclora_cli.recipe.fill import idle_keys
from topiclora_cli.recipe.methods import METHODS, PLAIN
from topiclora_cli.scaling import plain_rank
from topiclora_cli.stages.counted import Counted, Skeleton, count, open_skeleton

# What a recipe says of an adapter's place holds for every method; the rest is what one method differs by from another.
_PLACES = (
    *("target_modules", "exclude_modules", "layers_to_transform", "modules_to_save"),
    *("budget", "lora_dropout", "router_scope", "kernel"),
)
_OF_THE_BASE = ("base_balance",)  # a loss on the base's own routers, whatever is beside them
_STEEP = ("rslora",)  # whose point is a slope of its own


class Sizes:
    """The sizes of a recipe's adapter on its base, of which the structure alone is read, when first asked for."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    @cached_property
    def skeleton(self) -> Skeleton:
        """The base's structure; raises TopicLoraError where it cannot be found."""
        model = self.recipe.model
        return open_skeleton(model.name, config_only=False, upcycle=model.upcycle)

    @property
    def section(self) -> SizedSection:
        """The recipe's own adapter; raises TopicLoraError for one that takes its size from trained adapters."""
        section = self.recipe.adapter
        if not isinstance(section, SizedSection) or section.trained:
            raise TopicLoraError(
                f"This suite compares adapters of one size, and {section.method} takes its size from trained ones.",
                "Take a recipe that trains its adapter from the start.",
            )
        return section

    @cached_property
    def own(self) -> Counted:
        """What the recipe's own adapter counts; raises as `section`, and where it does not fit the base."""
        section: Any = self.section  # one of the kinds that can be sized
        return count(section, self.skeleton)

    @property
    def sparse(self) -> bool:
        """Whether the base is a mixture of experts itself."""
        return bool(list(moe_blocks(self.skeleton.model)))

    def budget(self, kind: str = "total") -> str:
        """The recipe's own size as a budget, of `total` or `activated` parameters."""
        return f"{kind}={getattr(self.own, kind)}"

    def method(self, name: str, budget: str) -> dict[str, Any]:
        """Another method at a budget, with its own settings in place of what the recipe says of its own method, and
        with the first step of the recipe's adapter.
        """
        method, recipe = METHODS[name], self.recipe
        fields = KINDS[method.layer].model_fields
        changes: dict[str, Any] = {"adapter.method": name, "adapter.budget": budget}
        for key in recipe.said.get("adapter") or {}:
            if key in fields and key not in (*_PLACES, "method"):
                changes[f"adapter.{key}"] = method.adapter.get(key, fields[key].default)
        # What the base's own gates sum to is not known before they are asked.
        starts_alike = name not in _STEEP and method.adapter.get("variant") != "embedded"
        law = {"scaling": "total"} if "scaling" in fields and starts_alike else {}
        changes |= {f"adapter.{key}": value for key, value in law.items()}
        terms = method.values("loss")
        for term, values in (recipe.said.get("loss") or {}).items():
            if term not in _OF_THE_BASE and isinstance(values, dict) and "weight" in values:
                changes[f"loss.{term}.weight"] = terms.get(term, {}).get("weight", 0.0)
        if recipe.train.router_learning_rate is not None and method.adapter.get("router") != "topic":
            changes["train.router_learning_rate"] = None
        idle = idle_keys({"adapter": {"method": name, **law}})
        changes = {key: value for key, value in changes.items() if key not in idle}
        return {**changes, **self.slope(changes)} if starts_alike and "adapter.lora_alpha" not in idle else changes

    def resized(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Changes of the recipe's own method that would change its size, at its own size and slope."""
        sized = {**changes, "adapter.budget": self.budget()}
        return {**sized, **self.slope(sized)}

    def slope(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """The alpha with which a cell starts as the recipe's own adapter does, or else as plain LoRA does."""
        section = altered(self.recipe, changes.items(), where="suite").adapter
        assert isinstance(section, SizedSection)
        rank = plain_rank(section.model_dump()) if isinstance(section, ExpertsSection) else section.r
        start = self.own.first_step if self.own.first_step is not None else 1.0
        return {"adapter.lora_alpha": start * rank * PLAIN["lora_alpha"] / PLAIN["r"]}
