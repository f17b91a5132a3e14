"""The same mixture where asking costs more than computing: few operations, and torch's own autograd.

An accelerator multiplies a thousand tokens faster than Python asks for it, so a step's time is the number of calls. An
autograd function written in Python (fused.py) costs more calls than the passes over memory that it saves are worth
there, and layers that share a decision spread its gates over the experts' ranks once for all. Where weights do not
change (unchanging.py) it is the form for evaluation, on a CPU, too: at one token a time calls are what counts there.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topiclora_cli.adapters.precision import no_autocast

# Multiply-adds of the base layer, forward: beyond, an accelerator's own time outweighs the calls'. From the rates of an
# H100 (some 700 TFLOP/s against 0.1 ms of calls a layer), not from a measurement.
LIGHT_UP_TO = 2**35


def prefers_light(x: Tensor, base: nn.Linear) -> bool:
    """Whether a training step waits for calls, not for arithmetic; never on a CPU, which computes as it calls."""
    rows = x.numel() // x.shape[-1]
    return x.device.type != "cpu" and torch.is_grad_enabled() and rows * base.weight.numel() <= LIGHT_UP_TO


def light_mixture(x: Tensor, factors: Tensor, lora_a: Tensor, lora_b: Tensor, base: nn.Linear) -> Tensor:
    """W x + b + sum_e g_e B_e A_e x, shape (..., d_out), computed in the precision of factors.

    x (..., d_in); factors (T, E*r), each gate r times, multiplied by the LoRA scaling; flat lora_a (E*r or r, d_in) and
    lora_b (E*r, d_out). The base's weight is frozen.
    """
    dtype = factors.dtype
    with no_autocast(x):
        rows, lora_b = x.reshape(-1, x.shape[-1]).to(dtype), lora_b.to(dtype)
        hidden = F.linear(rows, lora_a.to(dtype))
        if len(lora_a) < len(lora_b):
            hidden = hidden.repeat(1, len(lora_b) // len(lora_a))
        bias = None if base.bias is None else base.bias.to(dtype)
        # Added to in place: a product with a frozen weight needs neither its output nor its input for any gradient.
        out = F.linear(rows, base.weight.to(dtype), bias).addmm_(hidden * factors, lora_b)
    return out.view(*x.shape[:-1], out.shape[-1])
