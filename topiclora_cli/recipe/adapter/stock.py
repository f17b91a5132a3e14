"""peft's own adapters."""

from collections.abc import Mapping

from pydantic import Field, field_validator, model_validator

from topiclora_cli.recipe.adapter.method import MethodSection
from topiclora_cli.recipe.adapter.sizes import SizedSection
from topiclora_cli.recipe.starts import check_lora_start


class LoraSection(SizedSection):
    """peft's LoRA; the method brings what is not said."""

    use_rslora: bool = False
    """Scale by alpha / sqrt(r), as peft's rsLoRA."""
    use_dora: bool = False
    """Train the weights' magnitudes apart from their directions, as peft's DoRA."""
    init_lora_weights: bool | str = True
    """How the adapter starts, in peft's words: true, false, gaussian, orthogonal, olora, pissa, mica or eva."""

    @property
    def starts(self) -> Mapping[str, bool | str]:
        """What says how the trainable part starts, by its key."""
        return {"init_lora_weights": self.init_lora_weights}

    @field_validator("init_lora_weights")
    @classmethod
    def _starts(cls, start: bool | str) -> bool | str:
        return check_lora_start(start)


class AdaloraSection(SizedSection):
    """peft's AdaLoRA; the method brings what is not said."""


class XloraSection(MethodSection):
    """peft's X-LoRA over trained LoRA adapters."""

    top_k: int | None = Field(default=None, ge=1)
    """How many of the adapters each token meets; null, all."""
    init_from: list[str] | None = None
    """Folders of the trained LoRA adapters."""
    train_experts: bool = True
    """Train the adapters on; false trains X-LoRA's classifier alone."""

    @property
    def trained(self) -> list[str]:
        """Folders of the trained adapters that this one is made of."""
        return self.init_from or []

    @model_validator(mode="after")
    def _mixes(self) -> "XloraSection":
        if not self.init_from:
            raise ValueError("xlora mixes trained LoRA adapters; name their folders in adapter.init_from")
        return self
