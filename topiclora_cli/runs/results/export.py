"""What an export with fixed gates costs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Export:
    """An export, as `merged/NAME/gap.json` holds it: how far it is from the routed model, over answer positions.

    kl: KL(routed || exported) in nats per token; agreement: share of equal top-1 tokens; tokens: how many positions.
    on: what the examples are, in words; measured: how many; calibration: training examples that the gates are means
    over. None: an earlier version did not say.
    """

    gates: str
    kl: float
    agreement: float
    tokens: int
    on: str = "held-out examples"
    measured: int | None = None
    calibration: int | None = None
