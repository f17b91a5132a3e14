"""A mixture of LoRA experts on linear layers."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, field_validator, model_validator

from topiclora_cli.recipe.adapter.experts import ExpertsSection
from topiclora_cli.recipe.adapter.sizes import check_names


class MixtureSection(ExpertsSection):
    """A mixture of LoRA experts on linear layers; the method brings what is not said.

    `*_by_depth` lists run from the lowest layers to the highest, each number for an equal share of them.
    """

    shared_gate: Literal["one", "softmax"] = "one"
    """Gate of shared experts: 1, or in one softmax with the chosen ones."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """In place of `top_k`: the fewest experts that together hold this much probability."""
    gate_weights: Literal["renormalised", "probability", "constant"] = "renormalised"
    """What the `top_k` experts weigh: renormalised to sum to 1, their probability as it is, or constant, each 1 /
    top_k."""
    experts_by_depth: list[int] | None = None
    """Numbers of experts by depth, as [2, 4, 6, 8], in place of `num_experts`."""
    ranks_by_depth: list[int] | None = None
    """Ranks by depth, in place of `r`; `lora_alpha` stays the one of rank `r`."""
    use_rslora: bool = False
    """The older name of `scaling: sqrt`."""
    plain_modules: str | list[str] | None = None
    """Adapted layers that get a plain LoRA and no router, by names or a role as of `target_modules`."""
    router_scope: Literal["linear", "group", "block", "layer"] = "linear"
    """Who shares a router: nobody (`linear`), layers that read the same input (`group`), a `block` or a `layer`."""
    granularity: Literal["token", "prompt"] = "token"
    """Route every token by itself, or by the mean over the prompt."""
    router_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on what the router reads."""
    router_width: int = Field(default=256, ge=1)
    """Hidden units of the routers `graph` and `sparsegen`."""
    shared_a: bool = False
    """One matrix A for all experts, as in HydraLoRA."""
    mixing: Literal["linear", "ffn"] = "linear"
    """Mix experts' outputs in each linear layer, or after a feed-forward block's non-linearity (`ffn`; MixLoRA)."""
    init: Literal["kaiming", "orthogonal", "svd"] = "kaiming"
    """How experts start: at random (`kaiming`), each reading a subspace of its own (`orthogonal`), or from segments of
    the base weight's spectrum (`svd`)."""
    init_from: list[str] | None = None
    """Folders of trained LoRA adapters to make the experts of."""
    train_experts: bool = True
    """Train the experts; false trains the routers alone."""

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
