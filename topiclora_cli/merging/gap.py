"""What fixing the gates costs: how far the exported model's next-token distributions are from the routed model's."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topiclora_cli.adapters.observe import autocast
from topiclora_cli.adapters.prompt import default_prompt


@dataclass(frozen=True)
class Gap:
    """Means over the answer positions of some examples; 0 and 1 respectively for an exact export.

    kl: KL(routed || exported) in nats per token; agreement: share of equal top-1 tokens; tokens: how many positions.
    """

    kl: float
    agreement: float
    tokens: int


@torch.inference_mode()
def measure_gap(
    routed: nn.Module, exported: nn.Module, batches: Iterable[Mapping[str, Tensor]], *, bfloat16: bool = False
) -> Gap:
    """Compare two models on the same labelled batches, one after the other: a batch's distributions are kept, no more.

    Raises ValueError where no batch has a label.
    """
    kl = agreement = 0.0
    tokens = 0
    for batch in batches:
        sums = _compare(*(_answer_log_probabilities(model, batch, bfloat16) for model in (routed, exported)))
        kl, agreement, tokens = kl + sums[0], agreement + sums[1], tokens + sums[2]
    if not tokens:
        raise ValueError("no labelled token to compare the models on")
    return Gap(kl / tokens, agreement / tokens, tokens)


def _compare(p: Tensor, q: Tensor) -> tuple[float, float, int]:
    """Sums over the positions of log-probabilities (n, V): KL(p || q), equal top-1 tokens, and n."""
    # Rounding may leave a divergence of nothing a little below it.
    kl = F.kl_div(q, p, reduction="none", log_target=True).sum(-1).clamp(min=0)
    return float(kl.sum()), float((p.argmax(-1) == q.argmax(-1)).sum()), len(p)


def _answer_log_probabilities(model: nn.Module, batch: Mapping[str, Tensor], bfloat16: bool) -> Tensor:
    """Log-probabilities (n, V) at the positions that predict a labelled token."""
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask", "position_ids")}
    labelled = batch["labels"][:, 1:] != -100
    with default_prompt(batch.get("prompt_mask"), model), autocast(bfloat16, labelled.device):
        logits = model.eval()(**inputs).logits
    return logits[:, :-1][labelled].float().log_softmax(-1)
