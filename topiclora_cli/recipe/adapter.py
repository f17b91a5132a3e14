"""The recipe's section on the trainable part."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, field_validator, model_validator

from topiclora_cli.errors import nearest
from topiclora_cli.recipe.meaning import has_routers
from topiclora_cli.recipe.methods import DEFAULT, METHODS
from topiclora_cli.recipe.section import Section
from topiclora_cli.recipe.starts import check_lora_start


class AdapterSection(Section):
    """The trainable part: a method by name (recipe/methods.py brings its values) and what to change of it.

    `target_modules` and `plain_modules` take names of linear layers or a role: all-linear, attention, feed-forward,
    outputs; `target_modules` of peft's LoRA on a mixture-of-experts base also router or experts. `*_by_depth` lists run
    from the lowest layers to the highest, each number for an equal share of them. `budget` (total=4.2M or
    activated=500K) solves for the rank; `lora_alpha` is then the one of rank `r`, whose scale is kept, as it is
    under `ranks_by_depth`. `num_experts: auto` leaves the number to the topic graph. `shared_experts` are more experts,
    beside those, that every token passes through: with a gate of 1 (`shared_gate: one`), or in one softmax with the
    chosen ones. `num_experts`, `top_k` and the topics are about the others alone.

    `gate_weights` says what the `top_k` experts weigh: renormalised to sum to 1, their probability as it is, or
    constant, each 1 / top_k.

    `scaling` is the law of the scale (scaling.py). Under `total` every adapted layer starts like a plain LoRA of this
    `lora_alpha`, whatever its experts, ranks and gates are; unsaid, it is twice the rank of the plain LoRA that has as
    many parameters as the experts have, and a `budget` keeps its part of that rank. `use_rslora` is the older name of
    `scaling: sqrt`, and plain LoRA's own.

    `init` is how experts start: at random (`kaiming`), each reading a subspace of its own (`orthogonal`), or from
    segments of the base weight's spectrum (`svd`). Plain LoRA has peft's own `init_lora_weights`.
    """

    method: str = DEFAULT
    r: int = Field(default=8, ge=1)
    num_experts: Annotated[int, Field(ge=1)] | Literal["auto"] = 8
    shared_experts: int = Field(default=0, ge=0)
    shared_gate: Literal["one", "softmax"] = "one"
    top_k: int | None = Field(default=None, ge=1)
    top_p: float | None = Field(default=None, gt=0, le=1)
    gate_weights: Literal["renormalised", "probability", "constant"] = "renormalised"
    budget: str | None = None
    experts_by_depth: list[int] | None = None
    ranks_by_depth: list[int] | None = None
    lora_alpha: float = Field(default=16.0, gt=0)
    scaling: Literal["total", "expert", "sqrt"] = "expert"
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    expert_dropout: Literal["shared", "own"] = "shared"
    use_rslora: bool = False
    use_dora: bool = False
    init_lora_weights: bool | str = True
    target_modules: str | list[str] = "all-linear"
    exclude_modules: str | list[str] | None = None
    plain_modules: str | list[str] | None = None
    modules_to_save: list[str] | None = None
    layers_to_transform: list[Annotated[int, Field(ge=0)]] | None = Field(default=None, min_length=1)
    router: Literal[
        "topic", "linear", "cosine", "threshold", "sparsegen", "hierarchical", "graph", "uniform", "static"
    ] = "topic"
    router_scope: Literal["linear", "group", "block", "layer"] = "linear"
    granularity: Literal["token", "prompt"] = "token"
    router_temperature: float = Field(default=1.0, gt=0)
    router_init: Literal["kaiming", "normal"] = "kaiming"
    router_dropout: float = Field(default=0.0, ge=0, lt=1)
    router_width: int = Field(default=256, ge=1)
    train_keys: bool = False
    shared_a: bool = False
    mixing: Literal["linear", "ffn"] = "linear"
    kernel: Literal["auto", "plain", "dense", "sparse"] = "auto"
    init: Literal["kaiming", "orthogonal", "svd"] = "kaiming"
    init_from: list[str] | None = None
    train_experts: bool = True

    variant: Literal["routed", "embedded", "dense", "shared"] = "routed"
    adapter_type: Literal["lora", "parallel"] = "lora"
    renormalize: Literal["auto", "on", "off"] = "auto"
    router_weight_source: Literal["own", "pretrained"] = "own"

    @property
    def layer(self) -> str:
        """Which layer carries the method: our `mixture`, `perft`, or one of peft's own by name."""
        return METHODS[self.method].layer

    @property
    def routes(self) -> bool:
        """Whether the method has routers of its own, which a prior can shape."""
        return has_routers({"method": self.method, "variant": self.variant})

    @property
    def exports(self) -> bool:
        """Whether fixed gates turn the adapter into a plain LoRA (`topiclora merge`)."""
        return self.layer == "mixture" and self.mixing == "linear"

    @field_validator("method")
    @classmethod
    def _known(cls, method: str) -> str:
        if method not in METHODS:
            raise ValueError(f"unknown method; known: {', '.join(METHODS)}. {nearest(method, METHODS)}")
        return method

    @field_validator("init_lora_weights")
    @classmethod
    def _starts(cls, start: bool | str) -> bool | str:
        return check_lora_start(start)

    @field_validator("budget")
    @classmethod
    def _counted(cls, budget: str | None) -> str | None:
        if budget is not None and not re.fullmatch(r"(total|activated)=\d+(\.\d+)?[kKmMbB]?", budget):
            raise ValueError("write total=4.2M or activated=500K, trainable parameters to solve the rank for")
        return budget

    @field_validator("target_modules", "exclude_modules", "plain_modules")
    @classmethod
    def _names(cls, wanted: str | list[str] | None) -> str | list[str] | None:
        if wanted is not None and (not wanted or not all(wanted)):
            raise ValueError("empty; name layers, or leave it out")
        if isinstance(wanted, str):
            try:
                re.compile(wanted)
            except re.error as error:
                raise ValueError(f"neither a role nor a regular expression ({error})") from None
        return wanted

    @field_validator("num_experts", mode="wrap")
    @classmethod
    def _number(cls, value: Any, check: ValidatorFunctionWrapHandler) -> int | str:
        try:
            return check(value)
        except ValidationError:
            # A union would name both of its sides, and neither of them helps.
            raise ValueError("a number greater than or equal to 1, or auto") from None

    @model_validator(mode="after")
    def _fits(self) -> "AdapterSection":
        if min([*(self.experts_by_depth or [1]), *(self.ranks_by_depth or [1])]) < 1:
            raise ValueError("experts_by_depth and ranks_by_depth take numbers of at least 1")
        if self.num_experts == "auto" and (self.experts_by_depth or self.init_from):
            given = "experts_by_depth" if self.experts_by_depth else "init_from"
            raise ValueError(f"{given} says how many experts there are; leave out num_experts: auto")
        experts = min(self.experts_by_depth) if self.experts_by_depth else self.num_experts
        if self.top_k is not None and experts != "auto" and self.top_k > experts:
            raise ValueError(f"top_k ({self.top_k}) cannot exceed num_experts ({experts})")
        # Experts of trained adapters are counted when those have been read.
        if experts != "auto" and not self.init_from and self.shared_experts > experts:
            raise ValueError(f"shared_experts ({self.shared_experts}) cannot exceed num_experts ({experts})")
        if self.top_k is not None and self.top_p is not None:
            raise ValueError("top_k and top_p exclude one another; set one of them to null")
        if self.budget and self.ranks_by_depth:
            raise ValueError("budget solves for one rank; leave out ranks_by_depth")
        if self.layer == "mixture" and self.use_rslora and self.scaling != "sqrt":
            raise ValueError(
                f"use_rslora scales as scaling: sqrt does, and not as scaling: {self.scaling}; leave one out"
            )
        if self.layer == "xlora" and not self.init_from:
            raise ValueError("xlora mixes trained LoRA adapters; name their folders in adapter.init_from")
        return self
