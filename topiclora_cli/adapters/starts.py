"""How the experts of a mixture start: A at random, in subspaces of their own, or both factors from the base's spectrum.

kaiming: each A as in nn.Linear, B zero (Hu et al. 2021). orthogonal: the same size, but no direction of the input is
read by two experts. svd: expert e starts with r singular triples of the base weight, from the place e * n / E of the
spectrum on, divided by RHO (GOAT, arXiv 2502.16894). GOAT takes the mean of that off the base's weights; here a frozen
copy of the factors stands beside the experts and is subtracted, so that the base stays as it is, for other adapters
and without any.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from topiclora_cli.adapters.weights import CheckedModule
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.scaling import experts_of_mass

STARTS = ("kaiming", "orthogonal", "svd")
RHO = 10.0  # what the singular values are divided by (GOAT's own)


def random_a(experts: int, rank: int, features: int, *, orthogonal: bool) -> Tensor:
    """A (E, r, d_in) of fresh experts, of entries with the variance 1 / (3 d_in).

    orthogonal: rows orthogonal to one another across all experts while E * r <= d_in. Beyond that as many whole experts
    as fit share one basis, the next ones another, drawn anew; where a single r exceeds d_in, every d_in rows do.
    """
    lora_a = torch.empty(experts, rank, features)
    if not orthogonal:
        for expert in lora_a:
            nn.init.kaiming_uniform_(expert, a=math.sqrt(5))
        return lora_a
    together = rank * (features // rank) or features
    for rows in lora_a.view(-1, features).split(together):
        nn.init.orthogonal_(rows, gain=1 / math.sqrt(3))
    return lora_a


def singular_factors(
    weight: Tensor, experts: int, rank: int, scaling: float, *, leading: int = 0
) -> tuple[Tensor, Tensor]:
    """A (E, r, d_in) and B (E, r, d_out) with s B_e A_e = the e-th segment of W / RHO, in W's precision.

    weight: W (d_out, d_in), of which n = min(d_out, d_in) singular values fall into E segments; a segment's r largest
    are taken, halved between the factors by their square root. The last `leading` experts, which every token passes
    through, have the first segments, and the others those behind them. Source: GOAT, arXiv 2502.16894, which has no
    such experts.
    """
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    first = torch.arange(experts, device=weight.device).roll(-leading) * (len(values) // experts)
    chosen = first.unsqueeze(-1) + torch.arange(rank, device=weight.device)  # (E, r)
    root = (values[chosen] / (scaling * RHO)).sqrt().unsqueeze(-1)
    return root * right[chosen], root * left.T[chosen]


def base_weight(base: Any) -> Tensor:
    """The weight (d_out, d_in) of a linear layer, in float32 or above."""
    weight: Tensor = base.weight.detach().T if isinstance(base, Conv1D) else base.weight.detach()
    return weight if weight.dtype == torch.float64 else weight.float()


def check_segments(base: Any, lora_b: Tensor, name: str) -> None:
    """Raises TopicLoraError where the linear layer of that name has no plain numbers to decompose, or too few of them.

    lora_b (E, r, d_out): what is to start from its spectrum; overlapping segments would start experts alike.
    """
    weight, (experts, rank, _) = base.weight, lora_b.shape
    offloaded = weight.is_meta and hasattr(base, "_hf_hook")
    if weight.is_meta and not offloaded:  # an empty model is only counted
        return
    if offloaded or type(weight) not in (Tensor, nn.Parameter) or not weight.is_floating_point():
        state = "offloaded" if offloaded else "quantised"
        raise TopicLoraError(
            f"init: svd reads the base's weights, and those of {name} are {state}.",
            "Use init: orthogonal, which needs none of them.",
        )
    if rank > (most := min(weight.shape) // experts):
        raise TopicLoraError(
            f"init: svd has {most} singular values of {name} for each of {experts} experts, but r is {rank}.",
            "Lower r or the number of experts, or leave the layer out of the targets.",
        )


def mean_gates(config: Any) -> Tensor:
    """Gates (E + S,) that a mixture has on average while its routing is even."""
    experts, shared, gate = config.num_experts, config.shared_experts, 1.0
    if config.shared_gate == "softmax":
        chosen = config.top_k or experts_of_mass(config.top_p or 1.0, experts)
        gate = 1 / (chosen + shared)
    routed = (config.gates_at_start - shared * gate) / experts
    return torch.cat([torch.full((experts,), routed), torch.full((shared,), gate)])


class Start(CheckedModule):
    """What an svd start takes off again: the sum over experts of their mean gate times s B_e A_e x, as at the start.

    start_a (E, r, d_in); start_b (E, r, d_out), gates and s multiplied in. Frozen, saved with the adapter, in float32
    or above whatever the base's precision is.
    """

    start_a: Tensor
    start_b: Tensor

    def __init__(self, lora_a: Tensor, lora_b: Tensor) -> None:
        super().__init__()
        dtype = torch.promote_types(lora_a.dtype, torch.float32)
        self.register_buffer("start_a", torch.zeros(lora_a.shape, dtype=dtype))
        self.register_buffer("start_b", torch.zeros(lora_b.shape, dtype=dtype))

    def keep(self, lora_a: Tensor, lora_b: Tensor, gates: Tensor) -> None:
        """Take over the experts' factors under gates (E,), which carry s."""
        self.start_a = lora_a.detach().to(self.start_a.dtype, copy=True)
        self.start_b = lora_b.detach().to(self.start_b.dtype) * gates.to(self.start_b).view(-1, 1, 1)

    def settle(self, layer_name: str, device: torch.device) -> "Start":
        """Move to a layer's device, unless that has none yet, and be named after the layer in errors."""
        self.label = f"{layer_name}: start"
        return self if device.type == "meta" or self.start_a.is_meta else self.to(device)

    def as_lora(self) -> tuple[Tensor, Tensor]:
        """A (E*r, d_in) and B (d_out, E*r) of the plain LoRA that does the same."""
        return self.start_a.flatten(0, 1), -self.start_b.flatten(0, 1).T

    def forward(self, x: Tensor) -> Tensor:
        """What is to be subtracted for x (..., d_in): (..., d_out)."""
        return F.linear(F.linear(x, self.start_a.flatten(0, 1)), self.start_b.flatten(0, 1).T)
