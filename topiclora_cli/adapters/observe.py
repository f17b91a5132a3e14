"""Watching a routed model at work: which experts it uses, example by example."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from topiclora_cli.adapters.prompt import default_prompt
from topiclora_cli.adapters.record import record_routing


def autocast(enabled: bool, device: torch.device) -> AbstractContextManager[None]:
    """bfloat16 autocast on `device`, or nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


@torch.inference_mode()
def observe_gates(
    model: nn.Module, batches: Iterable[Mapping[str, Tensor]], *, bfloat16: bool = False, shared: bool = False
) -> dict[str, Tensor]:
    """Mean gates of each example over its masked tokens: adapted linear -> (N, E) in float32, in main memory.

    shared: with the gates of shared experts behind those of the routed ones, (N, E + S), as an export needs them.

    A batch has input_ids, attention_mask and position_ids (B, S) and token_mask (B, S), which tokens count; prompt_mask
    (B, S), where it has one, says which tokens routing by prompt may look at.
    """
    collected: dict[str, list[Tensor]] = {}
    model.eval()
    for batch in batches:
        mask = batch["token_mask"].float()
        weights = mask / mask.sum(-1, keepdim=True).clamp_min(1)
        inputs = {key: value for key, value in batch.items() if not key.endswith("_mask") or key == "attention_mask"}
        prompt = default_prompt(batch.get("prompt_mask"), model)
        with record_routing(model) as record, prompt, autocast(bfloat16, mask.device):
            model(**inputs)
        record.arrange(mask.shape)
        for name, gates in record.gates.items():
            if shared and name in record.shared_gates:
                gates = torch.cat([gates, record.shared_gates[name]], -1)
            collected.setdefault(name, []).append(torch.einsum("bse,bs->be", gates.float(), weights))
    return {name: torch.cat(parts).cpu() for name, parts in collected.items()}
