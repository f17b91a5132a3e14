"""Watching routers token by token: what a mean over an example's tokens hides."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from topiclora_cli.adapters.observe import autocast
from topiclora_cli.adapters.prompt import default_prompt
from topiclora_cli.adapters.record import record_routing
from topiclora_cli.topics.distributions import entropy


@dataclass(frozen=True)
class Observed:
    """Of N examples, by adapted module with a choice, in order of execution.

    gates: means over an example's tokens (N, E), rows sum to 1. last: those of its last token. token_entropy: of one
    token's gates over ln E, a mean. per_token: 1 / sum g^2 of one token's gates, a mean.
    """

    gates: Mapping[str, Tensor]
    last: Mapping[str, Tensor]
    token_entropy: Mapping[str, float]
    per_token: Mapping[str, float]


@dataclass
class _Sums:
    gates: list[Tensor] = field(default_factory=list)
    last: list[Tensor] = field(default_factory=list)
    entropy: float = 0.0
    per_token: float = 0.0
    tokens: float = 0.0


@torch.inference_mode()
def observe(model: nn.Module, batches: Iterable[Mapping[str, Tensor]], *, bfloat16: bool = False) -> Observed:
    """Run the batches (as of observe_gates) through the model, and sum up the gates of their masked tokens."""
    sums: dict[str, _Sums] = {}
    model.eval()
    for batch in batches:
        mask = batch["token_mask"].float()
        for name, gates in gates_of(model, batch, bfloat16=bfloat16).items():
            if gates.shape[-1] < 2:
                continue
            shares = gates.float() / gates.float().sum(-1, keepdim=True).clamp_min(1e-12)
            own = sums.setdefault(name, _Sums())
            weights = mask / mask.sum(-1, keepdim=True).clamp_min(1)
            own.gates.append(torch.einsum("bse,bs->be", shares, weights).cpu())
            places = torch.arange(mask.shape[1], device=mask.device)
            last = (mask * places).argmax(-1)
            own.last.append(shares[torch.arange(len(mask), device=mask.device), last].cpu())
            own.entropy += float((entropy(shares) * mask).sum())
            own.per_token += float((mask / shares.square().sum(-1).clamp_min(1e-12)).sum())
            own.tokens += float(mask.sum())
    means = {name: torch.cat(own.gates) for name, own in sums.items()}
    most = {name: math.log(each.shape[-1]) for name, each in means.items()}
    return Observed(
        means,
        {name: torch.cat(own.last) for name, own in sums.items()},
        {name: own.entropy / max(1.0, own.tokens) / most[name] for name, own in sums.items()},
        {name: own.per_token / max(1.0, own.tokens) for name, own in sums.items()},
    )


def gates_of(
    model: nn.Module, batch: Mapping[str, Tensor], *, bfloat16: bool = False, inputs: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Every adapted module's gates (B, S, E) of one batch; `inputs` takes what each of them read."""
    read: dict[str, Any] = {
        key: value for key, value in batch.items() if not key.endswith("_mask") or key == "attention_mask"
    }
    prompt = default_prompt(batch.get("prompt_mask"), model)
    device = batch["input_ids"].device
    with record_routing(model, inputs=inputs is not None) as record, prompt, autocast(bfloat16, device):
        model(**read)
    record.arrange(batch["input_ids"].shape)
    if inputs is not None:
        inputs.update(record.inputs)
    return record.gates
