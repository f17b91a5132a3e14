"""What our two layers with experts have in common: how many there are, and how they are chosen."""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, field_validator, model_validator

from topiclora_cli.recipe.adapter.method import EXPERTS
from topiclora_cli.recipe.adapter.sizes import SizedSection


class ExpertsSection(SizedSection):
    """Experts and their router.

    `num_experts`, `top_k` and the topics are about the routed experts alone, not about shared ones.
    """

    num_experts: Annotated[int, Field(ge=1)] | Literal["auto"] = EXPERTS
    """Experts in each adapted layer; `auto` leaves the number to the topic graph."""
    shared_experts: int = Field(default=0, ge=0)
    """More experts, beside those, that every token passes through."""
    top_k: int | None = Field(default=None, ge=1)
    """Experts active for each token; null mixes all."""
    scaling: Literal["total", "expert", "sqrt"] = "expert"
    """The law of the scale: `expert` (alpha / r), `sqrt` (alpha / sqrt(r)) or `total`, under which every adapted layer
    starts like a plain LoRA of this `lora_alpha`, whatever its experts, ranks and gates are; unsaid, alpha is then
    twice the rank of the plain LoRA that has as many parameters as the experts have, and a `budget` keeps its part of
    that rank."""
    expert_dropout: Literal["shared", "own"] = "shared"
    """One dropout mask for all experts, or one for each."""
    router: Literal[
        "topic", "linear", "cosine", "threshold", "sparsegen", "hierarchical", "graph", "uniform", "static"
    ] = "topic"
    """What chooses experts: `topic` starts from the topics' vectors; the others are those of published mixtures."""
    router_temperature: float = Field(default=1.0, gt=0)
    """Divides the router's scores; above 1 routing is more even."""
    router_init: Literal["kaiming", "normal"] = "kaiming"
    """How a router starts: uniform by its width (`kaiming`), or normal with deviation 0.02."""
    train_keys: bool = False
    """Let the topic router's keys move from the topics' vectors."""
    kernel: Literal["auto", "plain", "dense", "sparse"] = "auto"
    """How experts are computed: by plain autograd, fused and `dense` or `sparse`, or whatever is fastest (`auto`)."""

    @property
    def graph_experts(self) -> int | Literal["auto"]:
        """How many experts a topic graph of this recipe is for."""
        return self.num_experts

    @property
    def fewest_experts(self) -> int | Literal["auto"]:
        """How many experts there are in the layer that has the fewest."""
        return self.num_experts

    @field_validator("num_experts", mode="wrap")
    @classmethod
    def _number(cls, value: Any, check: ValidatorFunctionWrapHandler) -> int | str:
        try:
            return check(value)
        except ValidationError:
            # A union would name both of its sides, and neither of them helps.
            raise ValueError("a number greater than or equal to 1, or auto") from None

    @model_validator(mode="after")
    def _enough_experts(self) -> "ExpertsSection":
        experts = self.fewest_experts
        if self.top_k is not None and experts != "auto" and self.top_k > experts:
            raise ValueError(f"top_k ({self.top_k}) cannot exceed num_experts ({experts})")
        # Experts of trained adapters are counted when those have been read.
        if experts != "auto" and not self.trained and self.shared_experts > experts:
            raise ValueError(f"shared_experts ({self.shared_experts}) cannot exceed num_experts ({experts})")
        return self
