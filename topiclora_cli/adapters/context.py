"""What the routed layers of one model hold between one and the next while it runs: one place, owned by the model.

Its tuner makes it and hands it to every layer and router. Two models share none, each thread finds a state of its own,
and a copy of a model, by pickle too, starts with an empty one; nothing of it is saved.
"""

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn


@dataclass
class RoutingRecord:
    """Tensors by module name, in order of execution.

    logits (B, S, E): one entry per router, under the name of the first layer that it serves; their softmax is the
    router's dense probability. gates (B, S, E): one entry per adapted layer, of its routed experts; shared_gates: of
    the experts for every token, where a layer has such. inputs (B, S, d_in): what each adapted layer read, kept only
    on request. token_logits and task_logits (B, S, E): the two parts of a hierarchical router
    before it mixes them, where the layer has them; the task's at a position is of the prompt so far, and of the whole
    prompt at any position behind it, the last one included. excess (B, S, E): a threshold router's probabilities less
    the threshold.
    """

    keep_inputs: bool = False
    logits: dict[str, Tensor] = field(default_factory=dict)
    token_logits: dict[str, Tensor] = field(default_factory=dict)
    task_logits: dict[str, Tensor] = field(default_factory=dict)
    excess: dict[str, Tensor] = field(default_factory=dict)
    gates: dict[str, Tensor] = field(default_factory=dict)
    shared_gates: dict[str, Tensor] = field(default_factory=dict)
    inputs: dict[str, Tensor] = field(default_factory=dict)

    def of_routing(self) -> tuple[dict[str, Tensor], ...]:
        """All but the inputs."""
        return self.logits, self.token_logits, self.task_logits, self.excess, self.gates, self.shared_gates

    def arrange(self, shape: torch.Size) -> None:
        """Give all but the inputs the batch's shape (B, S, E): some layers read one row of tokens after another."""
        for tensors in self.of_routing():
            for name, tensor in tensors.items():
                if tensor.shape[:-1] != shape:
                    tensors[name] = tensor.reshape(*shape, -1)


Kept = dict[str, tuple[Tensor, Tensor]]  # by router: running sums (B, P, n) and counts (B, P, 1) over the prompt


@dataclass
class PromptCall:
    """What one forward call says of its tokens.

    mask (B, S): which are prompt; None for all of them where the call starts, for none where it goes on from a cache.
    seen: tokens in that cache, -1 if it does not say; 0 where the call starts. earlier (B, seen): which of those are
    prompt, where that was said. kept: what the routers hold on to, None if nothing will. restarts: where positions
    start anew in a row. trains_without_mask: whether the call trains and nobody said which tokens are prompt. length:
    S, where the model is called with tokens or their embeddings.
    """

    mask: Tensor | None = None
    seen: int = 0
    earlier: Tensor | None = None
    kept: Kept | None = None
    restarts: Tensor | None = None
    trains_without_mask: bool = False
    length: int | None = None
    checked: bool = False


@dataclass(frozen=True)
class ForcedPrior:
    """routers: those that it is about; log_prior (R, W, E) and eta (R, W, 1) of the tokens of R rows."""

    routers: frozenset[nn.Module]
    log_prior: Tensor
    eta: Tensor


@dataclass(frozen=True)
class Interfered:
    """routers: those that decide otherwise; how: what is done to their scores and their gates (interference.py)."""

    routers: frozenset[nn.Module]
    how: Any


@dataclass
class Running:
    """The state of one thread.

    records: those under way, each with the layers that it is of. prompt_mask (B, P): which tokens are the prompt, where
    that was said. prior: what routers are drawn towards. interfered: what is done to their decisions. calls: the
    decoder's forward call, by adapter. decisions: by group of layers, its routing decision and how many members are
    still to take it. held: in a block in which weights do not change, what layers made of theirs, by layer and adapter.
    """

    records: tuple[tuple[RoutingRecord, frozenset[nn.Module]], ...] = ()
    prompt_mask: Tensor | None = None
    prior: ForcedPrior | None = None
    interfered: Interfered | None = None
    calls: dict[str, PromptCall] = field(default_factory=dict)
    decisions: dict[object, tuple[Any, int]] = field(default_factory=dict)
    held: dict[tuple[nn.Module, str], Any] | None = None


class RoutingContext:
    """A model's own state of its forward passes, apart for each thread."""

    def __init__(self) -> None:
        self._own = threading.local()

    @property
    def here(self) -> Running:
        """This thread's."""
        running: Running | None = getattr(self._own, "running", None)
        if running is None:
            running = self._own.running = Running()
        return running

    @property
    def prompt_mask(self) -> Tensor | None:
        """What was said of this model in this thread, or else of whatever model runs in it."""
        own = self.here.prompt_mask
        return EVERY_MODEL.here.prompt_mask if own is None else own

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()


# What is said in a thread of no model in particular.
EVERY_MODEL = RoutingContext()


class Within(AbstractContextManager[None]):
    """A block in which this thread finds a value in each of some contexts; it can be entered again, as backward is."""

    def __init__(
        self,
        contexts: Sequence[RoutingContext],
        key: Literal["prompt_mask", "prior", "interfered", "held"],
        values: Sequence[Any],
    ) -> None:
        self._contexts = contexts
        self._key = key
        self._values = values
        self._outer: list[list[Any]] = []

    def __enter__(self) -> None:
        self._outer.append([getattr(context.here, self._key) for context in self._contexts])
        self._set(self._values)

    def __exit__(self, *_: object) -> None:
        self._set(self._outer.pop())

    def _set(self, values: Sequence[Any]) -> None:
        for context, value in zip(self._contexts, values, strict=True):
            setattr(context.here, self._key, value)
