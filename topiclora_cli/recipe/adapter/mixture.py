"""A mixture of LoRA experts on linear layers."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, field_validator, model_validator

from topiclora_cli.recipe.adapter.experts import ExpertsSection
from topiclora_cli.recipe.adapter.sizes import check_names


class MixtureSection(ExpertsSection):
    """A mixture of LoRA experts on linear layers; the method brings what is not said.

    `plain_modules` takes names or a role as `target_modules` does. `*_by_depth` lists run from the lowest layers to the
    highest, each number for an equal share of them; under `ranks_by_depth`, too, `lora_alpha` is the one of rank `r`.
    Shared experts have a gate of 1 (`shared_gate: one`), or are in one softmax with the chosen ones.

    `gate_weights` says what the `top_k` experts weigh: renormalised to sum to 1, their probability as it is, or
    constant, each 1 / top_k.

    `use_rslora` is the older name of `scaling: sqrt`.

    `init` is how experts start: at random (`kaiming`), each reading a subspace of its own (`orthogonal`), or from
    segments of the base weight's spectrum (`svd`). `init_from` names folders of trained LoRA adapters to make them of.
    """

    shared_gate: Literal["one", "softmax"] = "one"
    top_p: float | None = Field(default=None, gt=0, le=1)
    gate_weights: Literal["renormalised", "probability", "constant"] = "renormalised"
    experts_by_depth: list[int] | None = None
    ranks_by_depth: list[int] | None = None
    use_rslora: bool = False
    plain_modules: str | list[str] | None = None
    router_scope: Literal["linear", "group", "block", "layer"] = "linear"
    granularity: Literal["token", "prompt"] = "token"
    router_dropout: float = Field(default=0.0, ge=0, lt=1)
    router_width: int = Field(default=256, ge=1)
    shared_a: bool = False
    mixing: Literal["linear", "ffn"] = "linear"
    init: Literal["kaiming", "orthogonal", "svd"] = "kaiming"
    init_from: list[str] | None = None
    train_experts: bool = True

    @property
    def routes(self) -> bool:
        """Whether the method has routers of its own, which a prior can shape."""
        return True

    @property
    def exports(self) -> bool:
        """Whether fixed gates turn the adapter into a plain LoRA (`topiclora merge`)."""
        return self.mixing == "linear"

    @property
    def fewest_experts(self) -> int | Literal["auto"]:
        """How many experts there are in the layer that has the fewest."""
        return min(self.experts_by_depth) if self.experts_by_depth else self.num_experts

    @property
    def ranks(self) -> list[int]:
        """The ranks from the lowest layers to the highest."""
        return self.ranks_by_depth or [self.r]

    @property
    def starts(self) -> Mapping[str, bool | str]:
        """What says how the trainable part starts, by its key."""
        return {"init": self.init}

    @property
    def trained(self) -> list[str]:
        """Folders of the trained adapters that this one is made of."""
        return self.init_from or []

    @field_validator("plain_modules")
    @classmethod
    def _plain_names(cls, wanted: str | list[str] | None) -> str | list[str] | None:
        return check_names(wanted)

    @field_validator("experts_by_depth", "ranks_by_depth")
    @classmethod
    def _by_depth(cls, numbers: list[int] | None) -> list[int] | None:
        if min(numbers or [1]) < 1:
            raise ValueError("takes numbers of at least 1")
        return numbers

    @model_validator(mode="after")
    def _fits(self) -> "MixtureSection":
        if self.num_experts == "auto" and (self.experts_by_depth or self.init_from):
            given = "experts_by_depth" if self.experts_by_depth else "init_from"
            raise ValueError(f"{given} says how many experts there are; leave out num_experts: auto")
        if self.top_k is not None and self.top_p is not None:
            raise ValueError("top_k and top_p exclude one another; set one of them to null")
        if self.budget and self.ranks_by_depth:
            raise ValueError("budget solves for one rank; leave out ranks_by_depth")
        if self.use_rslora and self.scaling != "sqrt":
            raise ValueError(
                f"use_rslora scales as scaling: sqrt does, and not as scaling: {self.scaling}; leave one out"
            )
        return self
