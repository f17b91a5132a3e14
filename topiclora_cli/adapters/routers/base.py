"""What every router has: settings, a start, a projection that a fused kernel can take over, and a decision.

Whatever its kind, a router sees its own token only, or a mean over the prompt up to that token (prompt.py): anything
pooled over the sequence would let a prediction see the future. It computes in float32 even under autocast.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topiclora_cli.adapters.context import RoutingContext
from topiclora_cli.adapters.forcing import drawn_to_prior
from topiclora_cli.adapters.interference import interfered_gates, interfered_scores
from topiclora_cli.adapters.precision import no_autocast, precise, precise_product
from topiclora_cli.adapters.selection import select_experts
from topiclora_cli.adapters.shared import joined_gates
from topiclora_cli.adapters.weights import CheckedModule

INIT_STD = 0.02
VERSION = 2
Pool = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class RouterSettings:
    """What every router needs to know: sizes, choice of experts, its start, and where in the model it stands.

    shared: further experts whose scores join the routed ones' in one softmax, of a router that `joins_shared`. depth
    runs from 0 (first layer) to 1 (last); per_prompt averages the scores over the prompt; dropout is on what the
    router reads; version: 1 for the hierarchical and sparsegen routers that adapters were saved with before it was
    noted; first_experts: how many there were when scores got their scale, where some came or went since.
    """

    in_features: int
    num_experts: int
    top_k: int | None = None
    top_p: float | None = None
    gate_weights: str = "renormalised"
    temperature: float = 1.0
    per_prompt: bool = False
    width: int = 256
    depth: float = 0.0
    init: str = "kaiming"
    dropout: float = 0.0
    version: int = VERSION
    shared: int = 0
    first_experts: int | None = None


class Decision(NamedTuple):
    """What a router decided: logits, whose softmax is its dense probability, and gates, which mix the experts.

    All (..., E) in float32; gates (..., E + S) where S shared experts are part of the softmax. token and task: the two
    parts' own logits, of a router that mixes such parts. excess: the probabilities less the threshold, of a router that
    has one. k: how many experts have gates, where that is not as the router is set.
    """

    logits: Tensor
    gates: Tensor
    token: Tensor | None = None
    task: Tensor | None = None
    excess: Tensor | None = None
    k: int | None = None


class Router(CheckedModule):
    """Base of all routers: x (..., d_in) -> a decision, in float32 (float64 if x is)."""

    reads_rank_space = False  # whether x is A x rather than the layer's input
    joins_shared = False  # whether its gates are a softmax of scores alone, which shared experts' can join
    chooses_itself = False  # whether it knows by its own rule how many experts take part, and so no top_k or top_p
    takes_prior = True  # whether prior forcing can draw its probabilities towards a prior

    def __init__(self, settings: RouterSettings) -> None:
        super().__init__()
        self.settings = settings
        self.context = RoutingContext()  # until a layer hands it that of its model

    def settle(self, layer_name: str, device: torch.device) -> "Router":
        """Move to a layer's device, unless still without values, and be named after it in errors.

        The precision stays float32 whatever the base's is.
        """
        self.label = f"{layer_name}: router"
        empty = device.type == "meta" or any(tensor.is_meta for tensor in self.state_dict().values())
        return self if empty else self.to(device)

    def projection(self) -> Tensor | None:
        """Weight (n, d_in) of all that the router needs of x, so that a fused kernel can apply it; None without one."""
        return None

    def read(self, projected: Tensor) -> Tensor:
        """Raw scores from x's projection (..., n), or from x itself for a router without one."""
        raise NotImplementedError

    def tempered(self, logits: Tensor) -> Tensor:
        """Logits divided by the temperature."""
        return logits if self.settings.temperature == 1 else logits / self.settings.temperature

    def decide(self, scores: Tensor) -> Decision:
        """The decision from the scores; in training a topic prior may draw the gates, and never the logits."""
        settings = self.settings
        if settings.shared:
            routed, others = scores.split([settings.num_experts, settings.shared], -1)
            chosen_by = self.chosen_by(routed)
            return Decision(routed, joined_gates(chosen_by, others, top_k=settings.top_k, top_p=settings.top_p))
        weights = settings.gate_weights
        gates = select_experts(self.chosen_by(scores), top_k=settings.top_k, top_p=settings.top_p, gate_weights=weights)
        return Decision(scores, gates)

    def chosen_by(self, scores: Tensor) -> Tensor:
        """What experts are chosen by: scores (..., E), unless a prior draws them or somebody interferes."""
        return interfered_scores(self, self.context, drawn_to_prior(self, self.context, scores))

    def drop(self, x: Tensor) -> Tensor:
        """What the router reads of x (..., d_in) while it trains."""
        return F.dropout(x, self.settings.dropout) if self.drops else x

    @property
    def drops(self) -> bool:
        """Whether `drop` changes anything now."""
        return self.training and self.settings.dropout > 0

    def forward(self, x: Tensor, pool: Pool) -> Decision:
        with no_autocast(x):
            weight = self.projection()
        return self.route(x if weight is None else precise_product(x, weight), pool)

    def route(self, projected: Tensor, pool: Pool) -> Decision:
        """`forward` from x's projection, where somebody else has multiplied."""
        with no_autocast(projected):
            decision = self.settle_scores(precise(projected), pool)
            if self.context.here.interfered is None:
                return decision
            gates, k = interfered_gates(self, self.context, decision.gates)
            return decision._replace(gates=gates, k=k)

    def settle_scores(self, projected: Tensor, pool: Pool) -> Decision:
        """Read, pool over the prompt if so set, and decide."""
        scores = self.read(projected)
        return self.decide(pool(scores) if self.settings.per_prompt else scores)


def no_pooling(scores: Tensor) -> Tensor:
    """Every token by itself."""
    return scores


def weights(settings: RouterSettings, rows: int, columns: int) -> nn.Parameter:
    """A matrix (rows, columns) at its start: kaiming-uniform as in nn.Linear, or N(0, 0.02^2).

    kaiming-uniform has a standard deviation of 1 / sqrt(3 columns), so that normalised inputs of any width score with
    a deviation of 0.6 and the gates start about even; 0.02 makes them uneven from a width of a thousand on.
    """
    empty = torch.empty(rows, columns)
    if settings.init == "normal":
        return nn.Parameter(empty.normal_(std=INIT_STD))
    return nn.Parameter(empty.uniform_(-(columns**-0.5), columns**-0.5))


def biases(settings: RouterSettings, size: int, columns: int) -> nn.Parameter:
    """The bias (size,) beside weights of so many columns: as in nn.Linear, or zero."""
    bound = 0.0 if settings.init == "normal" else columns**-0.5
    return nn.Parameter(torch.empty(size).uniform_(-bound, bound))
