"""What is logged between two logging steps: sums that stay on the device until they are read, over all processes."""

import math
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor

from topiclora_cli.adapters.record import RoutingRecord
from topiclora_cli.runs.machine import GIB, resident_gib
from topiclora_cli.training.losses.common import token_sum

# An expert with less than this part of an even share of the routing is counted as dead: it is trained by chance alone.
DEAD_SHARE = 0.01
# A batch has few topics, and an expert may wait for its own: what counts is the load of about 1 / (1 - 0.9) readings.
MEMORY = 0.9
_LOAD = "load of "
LOADS = "routing_loads.safetensors"  # in a checkpoint


class Meter:
    """Adds up scalars and expert loads, one micro-batch after another, without waiting for the device."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps = 0
        self._lately: dict[str, Tensor] = {}
        self._started = time.monotonic()

    def add(self, **values: Tensor) -> None:
        """Add a micro-batch's shares of a step's values to the named sums; a name keeps its shape from call to call."""
        for name, value in values.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def add_batch(self, record: RoutingRecord, token_mask: Tensor) -> None:
        """Count a micro-batch: its tokens (B, S), and the gates that each router gave them."""
        loads = {
            _LOAD + name: token_sum(record.gates[name].detach().float(), mask=token_mask) for name in record.logits
        }
        self.add(tokens=token_mask.sum(), **loads)

    def add_step(self) -> None:
        """Count an optimizer step."""
        self._steps += 1

    def skip(self, seconds: float) -> None:
        """Leave out time that went into something else than training."""
        self._started += seconds

    def save(self, folder: Path) -> None:
        """Keep in a checkpoint what readings after it have to know: the loads of late."""
        if self._lately:
            save_file(self._lately, folder / LOADS)

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint; from one of 0.1, which kept no loads, the next reading counts as all that were."""
        if (folder / LOADS).is_file():
            self._lately = load_file(folder / LOADS)

    def read(self, accelerator: Accelerator) -> dict[str, float]:
        """Means over the steps since the last reading.

        What was added are shares of a step: they add up over its micro-batches and average over processes.
        """
        if not self._steps:
            return {}
        seconds, self._started = time.monotonic() - self._started, time.monotonic()
        sums = {**self._sums, "memory": torch.tensor(_peak_memory(), device=accelerator.device)}
        flat = torch.cat([value.reshape(-1) for value in sums.values()])
        everywhere = accelerator.gather(flat[None])  # (processes, values)
        parts = everywhere.split([value.numel() for value in sums.values()], dim=1)
        by_name = dict(zip(sums, (part.double().cpu() for part in parts), strict=True))
        read = {"tokens_per_second": float(by_name.pop("tokens").sum()) / max(seconds, 1e-9)}
        read["memory_gib"] = float(by_name.pop("memory").max())
        loads = {name: by_name.pop(name).mean(0) for name in list(by_name) if name.startswith(_LOAD)}
        shares = {name: load / load.sum().clamp_min(1e-12) for name, load in loads.items() if len(load) > 1}
        before = self._lately or shares
        self._lately = {name: MEMORY * before[name] + (1 - MEMORY) * share for name, share in shares.items()}
        read |= routing_readings(shares, self._lately)
        for name, values in by_name.items():
            read[name] = float(values.mean()) / self._steps
        self._sums, self._steps = {}, 0
        return {name: round(value, 8) for name, value in read.items()}


def routing_readings(shares: Mapping[str, Tensor], lately: Mapping[str, Tensor]) -> dict[str, float]:
    """How evenly the experts are used, from each router's shares (E,), now and of late; empty where there is no choice.

    effective_experts: 1 / sum p^2 of the shares p, from 1 (collapse) to E, a mean over routers. largest_load: the
    largest share of any expert. dead_experts: how many had less than DEAD_SHARE of an even share of late, dead_share:
    which part of all that is, both means over routers.
    """
    if not shares:
        return {}
    dead = [(int((p < DEAD_SHARE / len(p)).sum()), len(p)) for p in lately.values()]
    return {
        "effective_experts": sum(float(1 / p.square().sum().clamp_min(1e-12)) for p in shares.values()) / len(shares),
        "largest_load": max(float(p.max()) for p in shares.values()),
        "dead_experts": sum(number for number, _ in dead) / len(dead),
        "dead_share": sum(number / of for number, of in dead) / len(dead),
    }


def gradient_norms(parameters: Mapping[str, list[Tensor]]) -> dict[str, Tensor]:
    """The norm of the gradients of each kind of parameters, scalars on their device."""
    norms = {}
    for kind, tensors in parameters.items():
        gradients = [tensor.grad for tensor in tensors if tensor.grad is not None]
        if gradients:
            norm = torch.nn.utils.get_total_norm(gradients)
            norms[kind] = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    return norms


def before_clipping(norms: Mapping[str, float], total: float) -> dict[str, float]:
    """Norms of clipped gradients scaled back to what they were, as parts of the total norm before clipping."""
    clipped = math.sqrt(sum(norm**2 for norm in norms.values()))
    return {kind: norm * total / clipped if clipped > 0 else 0.0 for kind, norm in norms.items()}


def _peak_memory() -> float:
    """The most memory that this process has held at once, in GiB: on its GPU, else in all."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / GIB
    return resident_gib()
