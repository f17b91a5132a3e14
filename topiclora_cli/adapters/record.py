"""What the routers of a model decided during one forward pass, kept for the losses and the reports."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from topiclora_cli.adapters.context import RoutingRecord
from topiclora_cli.adapters.tuner import RoutedTunerLayer, contexts_of
from topiclora_cli.errors import TopicLoraError

__all__ = ["RoutingRecord", "note_gates", "note_logits", "record_routing"]


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
    record, contexts = RoutingRecord(keep_inputs=inputs), contexts_of(model)
    for context in contexts:
        context.here.records += ((record, layers),)
    try:
        yield record
    finally:
        for context in contexts:  # whichever block ends first
            context.here.records = tuple(entry for entry in context.here.records if entry[0] is not record)


def note_logits(
    layer: RoutedTunerLayer,
    logits: Tensor,
    *,
    token: Tensor | None = None,
    task: Tensor | None = None,
    excess: Tensor | None = None,
) -> None:
    """Called by routers' owners; costs nothing while nobody records."""
    for record, layers in layer.routing_context.here.records:
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
    for record, layers in layer.routing_context.here.records:
        if layer in layers:
            routed = gates.shape[-1] - shared
            record.gates[layer.name] = gates[..., :routed]
            if shared:
                record.shared_gates[layer.name] = gates[..., routed:]
            if record.keep_inputs:
                record.inputs[layer.name] = x
