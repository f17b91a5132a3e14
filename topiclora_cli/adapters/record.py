"""What the routers of a model decided during one forward pass, kept for the losses and the reports."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class RoutingRecord:
    """Tensors by module name, in order of execution.

    logits (B, S, E): one entry per router, under the name of the first layer that it serves; their softmax is the
    router's dense probability. gates (B, S, E): one entry per adapted layer. inputs (B, S, d_in): what each adapted
    layer read, kept only on request. token_logits and task_logits (B, S, E): the two parts of a hierarchical router
    before it mixes them, where the layer has them; the task's at a position is of the prompt so far, and of the whole
    prompt at any position behind it, the last one included.
    """

    keep_inputs: bool = False
    logits: dict[str, Tensor] = field(default_factory=dict)
    token_logits: dict[str, Tensor] = field(default_factory=dict)
    task_logits: dict[str, Tensor] = field(default_factory=dict)
    gates: dict[str, Tensor] = field(default_factory=dict)
    inputs: dict[str, Tensor] = field(default_factory=dict)

    def arrange(self, shape: torch.Size) -> None:
        """Give all but the inputs the batch's shape (B, S, E): some layers read one row of tokens after another."""
        for tensors in (self.logits, self.gates, self.token_logits, self.task_logits):
            for name, tensor in tensors.items():
                if tensor.shape[:-1] != shape:
                    tensors[name] = tensor.reshape(*shape, -1)


_recording: list[RoutingRecord] = []


@contextmanager
def record_routing(*, inputs: bool = False) -> Iterator[RoutingRecord]:
    """Collect what every mixture layer does that runs inside the block.

    Leave the block before calling backward: gradient checkpointing runs layers again there.
    """
    record = RoutingRecord(keep_inputs=inputs)
    _recording.append(record)
    try:
        yield record
    finally:
        _recording.remove(record)


def note_logits(name: str, logits: Tensor, *, token: Tensor | None = None, task: Tensor | None = None) -> None:
    """Called by routers; costs nothing while nobody records."""
    for record in _recording:
        record.logits[name] = logits
        for part, noted in ((token, record.token_logits), (task, record.task_logits)):
            if part is not None:
                noted[name] = part


def note_gates(name: str, gates: Tensor, x: Tensor) -> None:
    """Called by mixture layers; costs nothing while nobody records."""
    for record in _recording:
        record.gates[name] = gates
        if record.keep_inputs:
            record.inputs[name] = x
