"""What fixing the gates costs: how far the exported model's next-token distributions are from the routed model's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from topiclora_cli.adapters.observe import autocast


@dataclass(frozen=True)
class Gap:
    """Means over the answer positions of held-out examples; both 0 and 1 respectively for an exact export.

    kl: KL(routed || exported) in nats per token; agreement: share of equal top-1 tokens; tokens: how many positions.
    """

    kl: float
    agreement: float
    tokens: int


@torch.inference_mode()
def answer_log_probabilities(
    model: nn.Module, batches: Sequence[Mapping[str, Tensor]], *, bfloat16: bool = False
) -> list[Tensor]:
    """Log-probabilities at the positions that predict a labelled token: a list of (n, V), one per batch."""
    model.eval()
    result = []
    for batch in batches:
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask", "position_ids")}
        with autocast(bfloat16, batch["labels"].device):
            logits = model(**inputs).logits
        labelled = batch["labels"][:, 1:] != -100
        result.append(logits[:, :-1][labelled].float().log_softmax(-1))
    return result


def measure_gap(routed: Sequence[Tensor], exported: Sequence[Tensor]) -> Gap:
    """Compare two models' outputs of `answer_log_probabilities` on the same batches."""
    p, q = torch.cat(list(routed)), torch.cat(list(exported))
    kl = (p.exp() * (p - q)).sum(-1)
    agreement = (p.argmax(-1) == q.argmax(-1)).float()
    return Gap(kl=float(kl.mean()), agreement=float(agreement.mean()), tokens=len(p))
