"""Interfering with routing on purpose: what a trained model loses without an expert, or with other gates than its own.

    with interfered_routing(model, SwitchedOff({3})):
        model(...)

The rule for switched-off experts is that of a mixture that never had them: their scores leave the choice, so that the
next best takes the free slot, and gates are made of those chosen as the router always makes them. Nothing of a model
changes; outside of the block, and in other threads, it is what it was.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from topiclora_cli.adapters.context import Interfered, RoutingContext, Within
from topiclora_cli.adapters.tuner import contexts_of, routers_of
from topiclora_cli.errors import TopicLoraError


@dataclass(frozen=True)
class SwitchedOff:
    """These experts take part nowhere; a router that has no expert of such a number is left alone."""

    experts: frozenset[int]
    takes_all: ClassVar[bool] = False  # whether every expert gets a gate

    def scores(self, router: Any, scores: Tensor) -> Tensor:
        """Scores (..., E) without those of experts that are off."""
        off = [expert for expert in sorted(self.experts) if expert < scores.shape[-1]]
        return scores.index_fill(-1, torch.tensor(off, device=scores.device), -torch.inf) if off else scores

    def gates(self, router: Any, gates: Tensor, routed: int) -> Tensor:
        """Gates without what a rule of fixed slots gives experts that are off; their sum stays."""
        off = torch.tensor([expert for expert in sorted(self.experts) if expert < routed], device=gates.device)
        part = gates[..., :routed]
        left = part.index_fill(-1, off.long(), 0.0)
        scale = part.sum(-1, keepdim=True) / left.sum(-1, keepdim=True).clamp_min(torch.finfo(gates.dtype).tiny)
        return torch.cat([left * scale, gates[..., routed:]], -1)


@dataclass(frozen=True)
class Uniform:
    """Every expert gets the same part of what the token's gates sum up to."""

    takes_all: ClassVar[bool] = True

    def scores(self, router: Any, scores: Tensor) -> Tensor:
        """As they are."""
        return scores

    def gates(self, router: Any, gates: Tensor, routed: int) -> Tensor:
        """The routed experts' mean gate for each of them."""
        part = gates[..., :routed]
        return torch.cat([part.mean(-1, keepdim=True).expand_as(part), gates[..., routed:]], -1)


@dataclass(frozen=True)
class Shuffled:
    """Every router's gates go to other experts than it chose: by a permutation of its own that leaves none in place."""

    seed: int = 0
    takes_all: ClassVar[bool] = False

    def scores(self, router: Any, scores: Tensor) -> Tensor:
        """As they are."""
        return scores

    def gates(self, router: Any, gates: Tensor, routed: int) -> Tensor:
        """The routed experts' gates in another order."""
        order = _derangement(routed, f"{self.seed} {router.label}").to(gates.device)
        return torch.cat([gates[..., order], gates[..., routed:]], -1)


@dataclass(frozen=True)
class ByPrior:
    """A prior (R, E) of each row of a batch in the place of its tokens' scores.

    The router's rule then chooses by it; one with a rule of its own for how many take part has the prior as its gates.
    """

    prior: Tensor
    takes_all: ClassVar[bool] = False

    def scores(self, router: Any, scores: Tensor) -> Tensor:
        """The prior's logarithm, (..., E)."""
        return self._as_read(scores).clamp_min(torch.finfo(scores.dtype).tiny).log()

    def gates(self, router: Any, gates: Tensor, routed: int) -> Tensor:
        """The router's, or the prior itself."""
        if not router.chooses_itself:
            return gates
        return torch.cat([self._as_read(gates[..., :routed]), gates[..., routed:]], -1)

    def _as_read(self, like: Tensor) -> Tensor:
        """The prior of every token, in the shape in which a router reads them: some layers flatten rows."""
        rows, tokens = len(self.prior), like.shape[:-1].numel()
        if tokens % max(1, rows):
            raise TopicLoraError(
                f"A layer reads {tokens} tokens, which are no {rows} rows of the prior.", "Give one prior for each row."
            )
        each = self.prior.to(like).repeat_interleave(tokens // max(1, rows), 0)
        return each.reshape(like.shape)


Interference = SwitchedOff | Uniform | Shuffled | ByPrior


@contextmanager
def interfered_routing(model: nn.Module, interference: Interference | None) -> Iterator[None]:
    """Have the routers of the model's active adapters decide otherwise in this thread's forward calls inside.

    None changes nothing. Blocks may lie in one another; the inner one counts. Raises TopicLoraError where no router
    would notice, where one would be left without an expert, and for a prior over another number of experts.
    """
    if interference is not None:
        _refuse_unfit(model, interference)
    contexts = contexts_of(model)
    routers = frozenset(router for _, router in routers_of(model))
    said = None if interference is None else Interfered(routers, interference)
    with Within(contexts, "interfered", [said] * len(contexts)):
        yield


def interfered_scores(router: Any, context: RoutingContext, scores: Tensor) -> Tensor:
    """What a router's experts are chosen by: its scores (..., E), unless somebody interferes."""
    found = context.here.interfered
    if found is None or router not in found.routers:
        return scores
    return found.how.scores(router, scores)  # type: ignore[no-any-return]


def interfered_gates(router: Any, context: RoutingContext, gates: Tensor) -> tuple[Tensor, int | None]:
    """A router's gates (..., E + S) unless somebody interferes, and how many routed experts have one, if not as set."""
    found = context.here.interfered
    if found is None or router not in found.routers:
        return gates, None
    routed = router.settings.num_experts
    return found.how.gates(router, gates, routed), routed if found.how.takes_all else None


def _refuse_unfit(model: nn.Module, interference: Interference) -> None:
    found = routers_of(model)
    if not found:
        raise TopicLoraError("The model has no routers to interfere with.", "Name a mixture whose routers are its own.")
    sizes = {router.settings.num_experts: name for name, router in found}
    if isinstance(interference, SwitchedOff):
        if not interference.experts or min(interference.experts) < 0 or min(interference.experts) >= max(sizes):
            raise TopicLoraError(
                f"No router has the experts {sorted(interference.experts)}.", f"There are 0 to {max(sizes) - 1}."
            )
        for size, name in sizes.items():
            if interference.experts >= set(range(size)):
                raise TopicLoraError(f"All {size} experts of {name} would be off.", "Leave one at least.")
    if isinstance(interference, ByPrior):
        for size, name in sizes.items():
            if interference.prior.shape[-1] != size:
                raise TopicLoraError(
                    f"The prior is over {interference.prior.shape[-1]} experts, but the router of {name} has {size}.",
                    "Use a topic graph of as many experts.",
                )


def _derangement(size: int, key: str) -> Tensor:
    """A permutation (size,) that leaves nothing in place, the same for the same key: one cycle at random (Sattolo)."""
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
    order = list(range(size))
    for place in range(size - 1, 0, -1):
        other = int(torch.randint(place, (1,), generator=generator))
        order[place], order[other] = order[other], order[place]
    return torch.tensor(order)
