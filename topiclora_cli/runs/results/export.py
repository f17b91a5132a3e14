"""What an export with fixed gates costs."""

from dataclasses import dataclass

BASE, ROUTED, EXPORT = "base", "routed", "export"  # the models of a TaskGap


@dataclass(frozen=True)
class GapPart:
    """The gap of a part of what was measured, or of another rank: its name, KL, agreement, perplexity and tokens."""

    name: str
    kl: float
    agreement: float
    perplexity: float
    tokens: int


@dataclass(frozen=True)
class TaskGap:
    """A task's score, in its own unit, of the base, the routed model and the export; None where it has none."""

    task: str
    metric: str
    base: float | None
    routed: float | None
    export: float | None

    @property
    def retained(self) -> float | None:
        """The share of what the routed model gains on the base that the export keeps; None where nothing is gained."""
        if self.base is None or self.routed is None or self.export is None or self.routed <= self.base:
            return None
        return (self.export - self.base) / (self.routed - self.base)


@dataclass(frozen=True)
class Export:
    """An export, as `merged/NAME/gap.json` holds it: how far it is from the routed model, over answer positions.

    kl: KL(routed || exported) in nats per token; agreement: share of equal top-1 tokens; tokens: how many positions.
    on: what the examples are, in words; measured: how many; calibration: training examples that the gates are means
    over. None: an earlier version did not say. Perplexities are of the answers. rank: the LoRA's largest. models: the
    base, and what was read back from disk, a format or one of several LoRAs each; ranks: cut to other ranks; topics:
    the export by topic, the largest loss first. All but the last as `GapPart` has them; tasks: by lm-eval.
    """

    gates: str
    kl: float
    agreement: float
    tokens: int
    on: str = "held-out examples"
    measured: int | None = None
    calibration: int | None = None
    perplexity: float | None = None
    routed_perplexity: float | None = None
    rank: int | None = None
    models: tuple[GapPart, ...] = ()
    ranks: tuple[GapPart, ...] = ()
    topics: tuple[GapPart, ...] = ()
    tasks: tuple[TaskGap, ...] = ()
