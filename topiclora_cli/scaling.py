"""How much of an adapter's product reaches the output: the laws by which alpha and rank make a scale, in one place.

The first step of Adam moves every entry of a fresh B by the rate, so it moves the output by scale x rank x the sum of
the gates: the rank drops out of alpha / r, and a mixture whose gates sum to one starts like a LoRA of its alpha,
however many experts it has. Three laws make the scale s of an expert of rank r:

- total: s = alpha / (r G), G the sum of the gates at the start. The first step is that of a plain LoRA of this alpha
  whatever E, r and the gates are, so alpha is to be thought of as that of the plain LoRA of as many parameters as all
  experts have, of rank E r where each has its own A (GOAT, arXiv 2502.16894, keeps alpha and divides the rank by E).
- expert: s = alpha / r, what mixtures' papers have (Hu et al. 2021, arXiv 2106.09685, for each expert).
- sqrt: s = alpha / sqrt(r) (rsLoRA; Kalajdzievski 2023, arXiv 2312.03732).

Whatever changes a size afterwards (a budget, another depth, a recipe that gives the rank alone) asks here for the
alpha that belongs to it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from topiclora_cli.errors import TopicLoraError

_PLAIN = 2.0  # alpha over rank of the plain LoRA that others are compared with
GATE_WEIGHTS = ("renormalised", "probability", "constant")


@dataclass(frozen=True)
class ScalingLaw:
    """s = alpha / r^power, divided by the sum of the gates where the law counts all experts together."""

    power: float
    counts_gates: bool = False

    def scale(self, alpha: float, rank: int, gates: float = 1.0) -> float:
        """The factor of an adapter's product; gates: what its gates sum to at the start."""
        return alpha / (rank**self.power * (gates if self.counts_gates else 1.0))

    def alpha_at(self, rank: float, *, alpha: float, of: float) -> float:
        """The alpha that is to the rank `rank` what `alpha` is to the rank `of`; under `total`, ranks of plain LoRA."""
        return alpha * (rank / of) ** self.power


LAWS: Mapping[str, ScalingLaw] = {
    "total": ScalingLaw(1.0, counts_gates=True),
    "expert": ScalingLaw(1.0),
    "sqrt": ScalingLaw(0.5),
}


def stock_law(settings: Mapping[str, Any]) -> ScalingLaw:
    """The law of a plain LoRA with these settings of peft's."""
    return LAWS["sqrt" if settings.get("use_rslora") else "expert"]


def law_name(scaling: str | None, *, use_rslora: bool) -> str:
    """The law that a mixture's two keys ask for, where `use_rslora` is the older name of `scaling: sqrt`.

    Raises TopicLoraError where they contradict one another.
    """
    if scaling is None:
        return "sqrt" if use_rslora else "expert"
    if use_rslora and scaling != "sqrt":
        raise TopicLoraError(
            f"use_rslora scales by lora_alpha / sqrt(r), and scaling: {scaling} does not.", "Leave use_rslora out."
        )
    return scaling


def experts_of_mass(top_p: float, num_experts: int) -> int:
    """How many experts hold this much probability where routing is even."""
    return math.ceil(top_p * num_experts - 1e-9)


def gates_at_start(
    num_experts: int,
    *,
    top_k: int | None = None,
    top_p: float | None = None,
    gate_weights: str = "renormalised",
    shared_experts: int = 0,
    shared_gate: str = "one",
) -> float:
    """What the gates of a token sum to where routing is even, G.

    1 for all gates that are made to sum to 1. Kept probabilities that are left as they are (gate_weights: probability,
    a single expert, top_p) sum to the share of the experts that is kept; a router that prefers some gives them more.
    Shared experts add 1 each, or join the softmax, which then sums to 1 in any case.
    """
    routed = 1.0
    if shared_experts and shared_gate == "softmax":
        return routed
    if top_p is not None:
        routed = experts_of_mass(top_p, num_experts) / num_experts
    elif top_k is not None and top_k < num_experts and gate_weights != "constant":
        routed = top_k / num_experts if top_k == 1 or gate_weights == "probability" else 1.0
    return routed + shared_experts


def plain_rank(settings: Mapping[str, Any]) -> float:
    """Rank of the plain LoRA that has as many parameters as the experts of a recipe's adapter settings have together.

    Layers are taken for square, which matters where experts share one A, and those with a plain LoRA beside the mixture
    for the rest; a number of experts that the topic graph or the base is to bring counts as one.
    """
    if settings.get("variant") in ("shared", "embedded"):
        experts: Sequence[int] = (1,)
    else:
        number = settings.get("num_experts")
        experts = settings.get("experts_by_depth") or (number if isinstance(number, int) else 1,)
    ranks: Sequence[int] = settings.get("ranks_by_depth") or (settings["r"],)
    shared = settings.get("shared_experts") or 0
    depths = math.lcm(len(experts), len(ranks))
    sizes = (
        (experts[depth * len(experts) // depths] + shared, ranks[depth * len(ranks) // depths])
        for depth in range(depths)
    )
    own_a = not settings.get("shared_a")
    return sum(rank * (number if own_a else (1 + number) / 2) for number, rank in sizes) / depths


def perft_gates_at_start(
    variant: str, num_adapters: int, *, top_k: int, renormalize: str = "auto", shared_adapters: int = 0
) -> float:
    """What the weights of a token's adapters beside a block of experts sum to where routing is even."""
    if variant != "routed":
        return float(num_adapters)
    summed = renormalize == "on" or (renormalize == "auto" and top_k > 1)
    return (1.0 if summed else top_k / num_adapters) + shared_adapters


def first_step(layer: str, settings: Mapping[str, Any]) -> float | None:
    """What Adam's first step on a fresh adapter moves of the output, scale x rank x sum of the gates, over what it does
    of a plain LoRA of as many parameters whose alpha is twice its rank; None where that is no matter of sizes.

    settings: those of a recipe's adapter, whose layers are taken for square.
    """
    if layer == "lora":
        return stock_law(settings).scale(settings["lora_alpha"], settings["r"]) / _PLAIN
    sizes = {"mixture": _mixtures, "perft": _adapters}.get(layer)
    layers = sizes(settings) if sizes is not None else []
    if not layers:
        return None
    law = LAWS[law_name(settings["scaling"], use_rslora=False)]
    moved = sum(law.scale(alpha, rank, gates) * rank * gates for alpha, rank, gates in layers) / len(layers)
    return moved / (_PLAIN * plain_rank(settings))


def _mixtures(settings: Mapping[str, Any]) -> list[tuple[float, int, float]]:
    """Alpha, rank and sum of the gates of a mixture over the fewest layers that show every number."""
    experts = settings["experts_by_depth"] or [settings["num_experts"]]
    ranks = settings["ranks_by_depth"] or [settings["r"]]
    depths, law, alpha = math.lcm(len(experts), len(ranks)), settings["scaling"], settings["lora_alpha"]
    keys = ("top_k", "top_p", "gate_weights", "shared_experts", "shared_gate")
    layers = []
    for depth in range(depths):
        rank = ranks[depth * len(ranks) // depths]
        # Under `total` one alpha starts all ranks alike.
        own = alpha if law == "total" else LAWS[law].alpha_at(rank, alpha=alpha, of=settings["r"])
        gates = gates_at_start(experts[depth * len(experts) // depths], **{key: settings[key] for key in keys})
        layers.append((own, rank, gates))
    return layers


def _adapters(settings: Mapping[str, Any]) -> list[tuple[float, int, float]]:
    """The same of PERFT's; of those none whose outputs pass a non-linearity, or follow the pretrained router."""
    routed = settings["variant"] == "routed"
    follows = settings["variant"] == "embedded" or (routed and settings["router_weight_source"] == "pretrained")
    if settings["adapter_type"] == "parallel" or follows:
        return []
    number = 1 if settings["variant"] == "shared" else settings["num_experts"]
    gates = perft_gates_at_start(
        settings["variant"],
        number,
        top_k=settings["top_k"] or number,
        renormalize=settings["renormalize"],
        shared_adapters=settings["shared_experts"],
    )
    return [(settings["lora_alpha"], settings["r"], gates)]
