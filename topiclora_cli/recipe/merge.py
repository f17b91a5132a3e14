"""The recipe's section on exports with fixed gates."""

from typing import Literal

from pydantic import Field, model_validator

from topiclora_cli.recipe.section import Section


class MergeSection(Section):
    """How routing becomes fixed gates, and what is written with them."""

    gates: str = "mean"
    """The fixed gates of an export: `mean` routing of training prompts (`mean:FILE`, of a file's), `topic:<name>`, the
    routing of that topic's prompts, `topic:all`, one export for each, `topics:<name>=0.6,<name>=0.4`, `uniform`,
    `expert:<number>`, or `learned` (`learned:FILE`), fitted to the routed model's answers."""
    calibration: int = Field(default=64, ge=1)
    """Prompts on which gates and the export's cost are measured."""
    steps: int = Field(default=40, ge=1)
    """Steps of fitting `learned` gates."""
    formats: list[Literal["lora", "dense", "gguf", "experts", "self-loading"]] = Field(
        default=["lora", "dense"], min_length=1
    )
    """What to write: `lora`, a plain peft LoRA; `dense`, the whole model with it; `gguf`, that model for llama.cpp;
    `experts`, every expert as a LoRA; `self-loading`, the routed model with code of its own."""
    rank: int | None = Field(default=None, ge=1)
    """Cut the LoRA to this rank; unset, as many as it needs to be exact."""
    energy: float | None = Field(default=None, gt=0, le=1)
    """Cut each layer's LoRA to the rank that keeps this share of its squared singular values."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Precision of what is written; unset, that of the adapter and of model.dtype."""
    max_gap: float | None = Field(default=None, ge=0)
    """Refuse an export that is further from the routed model than this, in nats per answer token."""
    tasks: list[str] = []
    """lm-eval's tasks to score base, routed model and export on, as the recipe's eval section says."""

    @model_validator(mode="after")
    def _one_cut(self) -> "MergeSection":
        if self.rank is not None and self.energy is not None:
            raise ValueError("rank and energy both say where to cut; leave one out")
        return self
