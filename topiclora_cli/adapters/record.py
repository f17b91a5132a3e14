"""What the routers of a model decided during one forward pass, kept for the losses and the reports."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from topiclora_cli.adapters.per_thread import PerThread
from topiclora_cli.adapters.tuner import RoutedTunerLayer
from topiclora_cli.errors import TopicLoraError


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


# Of each thread: the records under way, and the layers of the model that each belongs to.
_records: PerThread[tuple[tuple[RoutingRecord, frozenset[nn.Module]], ...]] = PerThread()


@contextmanager
def record_routing(model: nn.Module, *, inputs: bool = False) -> Iterator[RoutingRecord]:
    """Collect what the routed layers of `model` do that run inside the block and in its thread.

    Leave the block before calling backward: gradient checkpointing runs layers again there. Raises TopicLoraError where
    several adapters are active at once: a record has room for one.
    """
    layers = frozenset(module for module in model.modules() if isinstance(module, RoutedTunerLayer))
    if active := next((layer.active_adapters for layer in layers if len(layer.active_adapters) > 1), None):
        raise TopicLoraError(
            f"The routing of {len(active)} adapters at once ({', '.join(active)}) cannot be recorded.",
            "Activate one with set_adapter.",
        )
    record, outer = RoutingRecord(keep_inputs=inputs), _records.get() or ()
    _records.set((*outer, (record, layers)))
    try:
        yield record
    finally:
        _records.set(outer)


def note_logits(
    layer: RoutedTunerLayer,
    logits: Tensor,
    *,
    token: Tensor | None = None,
    task: Tensor | None = None,
    excess: Tensor | None = None,
) -> None:
    """Called by routers' owners; costs nothing while nobody records."""
    for record, layers in _records.get() or ():
        if layer in layers:
            record.logits[layer.name] = logits
            for part, noted in (
                (token, record.token_logits),
                (task, record.task_logits),
                (excess, record.excess),
            ):
                if part is not None:
                    noted[layer.name] = part


def note_gates(layer: RoutedTunerLayer, gates: Tensor, x: Tensor, *, shared: int = 0) -> None:
    """Called by routed layers, with gates (..., E + S) for S shared experts; costs nothing while nobody records."""
    for record, layers in _records.get() or ():
        if layer in layers:
            routed = gates.shape[-1] - shared
            record.gates[layer.name] = gates[..., :routed]
            if shared:
                record.shared_gates[layer.name] = gates[..., routed:]
            if record.keep_inputs:
                record.inputs[layer.name] = x
