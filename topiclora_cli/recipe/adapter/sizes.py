"""What every LoRA has, plain or mixed: rank, scale, dropout and the layers that it goes to."""

import re
from typing import Annotated

from pydantic import Field, field_validator

from topiclora_cli.recipe.adapter.method import MethodSection


def check_names(wanted: str | list[str] | None) -> str | list[str] | None:
    """Names of layers, a role or a regular expression as they are; raises ValueError for nothing and for no pattern."""
    if wanted is not None and (not wanted or not all(wanted)):
        raise ValueError("empty; name layers, or leave it out")
    if isinstance(wanted, str):
        try:
            re.compile(wanted)
        except re.error as error:
            raise ValueError(f"neither a role nor a regular expression ({error})") from None
    return wanted


class SizedSection(MethodSection):
    """A LoRA's sizes and places."""

    r: int = Field(default=8, ge=1)
    """Rank of the adapter, or of each expert."""
    budget: str | None = None
    """Trainable parameters to solve the rank for: total=4.2M, activated=500K, or a share of the base's as total=1%;
    `lora_alpha` is then the one of rank `r`, whose scale is kept."""
    lora_alpha: float = Field(default=16.0, gt=0)
    """Numerator of the scale, from which and from the rank the law of `scaling` makes it."""
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapter's input."""
    target_modules: str | list[str] = "all-linear"
    """Layers to adapt: names, a regular expression, or a role: all-linear, attention, feed-forward, outputs; of peft's
    LoRA on a mixture-of-experts base also router or experts."""
    exclude_modules: str | list[str] | None = None
    """Layers to leave out of those, by names or a regular expression."""
    modules_to_save: list[str] | None = None
    """Modules to train and save whole, by name, such as lm_head."""
    layers_to_transform: list[Annotated[int, Field(ge=0)]] | None = Field(default=None, min_length=1)
    """Numbers of the decoder layers to adapt, from 0; unset, all."""

    @property
    def targets(self) -> str | list[str]:
        """The layers that are adapted, or a role that names them."""
        return self.target_modules

    @property
    def ranks(self) -> list[int]:
        """The ranks from the lowest layers to the highest."""
        return [self.r]

    @field_validator("budget")
    @classmethod
    def _counted(cls, budget: str | None) -> str | None:
        if budget is not None and not re.fullmatch(r"(total|activated)=\d+(\.\d+)?[kKmMbB%]?", budget):
            raise ValueError("write total=4.2M, activated=500K or total=1%, trainable parameters to solve the rank for")
        return budget

    @field_validator("target_modules", "exclude_modules")
    @classmethod
    def _names(cls, wanted: str | list[str] | None) -> str | list[str] | None:
        return check_names(wanted)
