"""How much of an adapter's product reaches the output: the law by which alpha and rank make a scale, in one place.

A law is s = alpha / r^p. Whatever changes a rank afterwards (a budget, another depth, a recipe that gives the rank
alone) asks here for the alpha that leaves s as it was, so that no rank is scaled by the law of another method.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ScalingLaw:
    """s = alpha / r^power."""

    power: float

    def scale(self, alpha: float, rank: int) -> float:
        """The factor of an adapter's product."""
        return alpha / rank**self.power

    def alpha_at(self, rank: int, *, alpha: float, of: int) -> float:
        """The alpha that scales at `rank` as `alpha` does at the rank `of`."""
        return alpha * (rank / of) ** self.power


LORA = ScalingLaw(1.0)  # Hu et al. 2021, arXiv 2106.09685
RANK_STABILISED = ScalingLaw(0.5)  # Kalajdzievski 2023, arXiv 2312.03732


def scaling_law(settings: Mapping[str, Any]) -> ScalingLaw:
    """The law that a recipe's adapter settings, or those of a stored LoRA, ask for."""
    return RANK_STABILISED if settings.get("use_rslora") else LORA
