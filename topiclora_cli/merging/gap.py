"""What fixing the gates costs: how far the exported model's next-token distributions are from the routed model's.

The routed model's distributions lie in files meanwhile, so that it need not be in memory beside the export.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from topiclora_cli.adapters.observe import autocast
from topiclora_cli.adapters.prompt import default_prompt

Batch = Mapping[str, Tensor]
_INPUTS = ("input_ids", "attention_mask", "position_ids", "logits_to_keep")


@dataclass(frozen=True)
class Gap:
    """Means over the answer positions of some examples; 0 and 1 respectively for an exact export.

    kl: KL(routed || exported) in nats per token; agreement: share of equal top-1 tokens; perplexity: the exported
    model's, of the answers; tokens: how many positions.
    """

    kl: float
    agreement: float
    perplexity: float
    tokens: int


@dataclass(frozen=True)
class Sums:
    """Of each example, (N,): the sums over its answer positions of KL, of equal top-1 tokens and of the loss in nats,
    and how many positions they are."""

    kl: Tensor
    agreement: Tensor
    loss: Tensor
    tokens: Tensor

    def gap(self, examples: Sequence[int] | None = None) -> Gap:
        """The means over all positions of these examples, of all by default."""
        chosen = slice(None) if examples is None else torch.tensor(list(examples), dtype=torch.long)
        tokens = int(self.tokens[chosen].sum())
        kl, agreement, loss = (float(part[chosen].sum()) / tokens for part in (self.kl, self.agreement, self.loss))
        return Gap(kl, agreement, math.exp(min(loss, 700.0)), tokens)

    def taken(self, others: "Sums", examples: Sequence[int]) -> "Sums":
        """These sums with those of some examples taken from others."""
        parts = [(own.clone(), other) for own, other in zip(self.parts, others.parts, strict=True)]
        for own, other in parts:
            own[list(examples)] = other[list(examples)]
        return Sums(*(own for own, _ in parts))

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.kl, self.agreement, self.loss, self.tokens


class Reference:
    """The routed model's answers to labelled batches, as files in a folder; one batch's lie in memory at a time."""

    def __init__(self, batches: Sequence[Batch], folder: Path, *, bfloat16: bool = False) -> None:
        self.batches, self.folder, self.bfloat16 = batches, folder, bfloat16

    @torch.inference_mode()
    def write(self, routed: nn.Module, batches: Iterable[Batch] | None = None) -> "Reference":
        """Answer the batches; raises ValueError where none has a label. batches: the same, as a bar counts them."""
        tokens = 0
        for number, batch in enumerate(self.batches if batches is None else batches):
            answers = answer_log_probabilities(routed, batch, bfloat16=self.bfloat16)
            tokens += len(answers)
            save_file({"answers": answers.contiguous().cpu()}, self._file(number))
        if not tokens:
            raise ValueError("no labelled token to compare the models on")
        return self

    def answers(self, number: int) -> Tensor:
        """Log-probabilities (n, V) of a batch."""
        return load_file(self._file(number))["answers"]

    @property
    def routed(self) -> Sums:
        """The routed model itself."""
        parts = []
        for number, batch in enumerate(self.batches):
            p = self.answers(number)
            parts.append(_compare(p, p, batch["labels"].to(p.device)))
        return Sums(*(torch.cat(part) for part in zip(*parts, strict=True)))

    @torch.inference_mode()
    def compare(self, exported: nn.Module, examples: Sequence[int] | None = None) -> Sums:
        """Another model on the same examples, or on some of them: the sums of all others are 0."""
        found, begin = [], 0
        for number, batch in enumerate(self.batches):
            rows = len(batch["labels"])
            own = None if examples is None else sorted({place - begin for place in examples} & set(range(rows)))
            found.append(self._compare_batch(exported, number, batch, own))
            begin += rows
        return Sums(*(torch.cat(part) for part in zip(*found, strict=True)))

    def _compare_batch(self, exported: nn.Module, number: int, batch: Batch, own: list[int] | None) -> list[Tensor]:
        labels = batch["labels"]
        sums = [torch.zeros(len(labels), dtype=torch.float64) for _ in range(4)]
        if own == []:
            return sums
        own = list(range(len(labels))) if own is None else own
        kept = torch.isin((labels[:, 1:] != -100).nonzero()[:, 0].cpu(), torch.tensor(own))
        part = {key: value[own] for key, value in batch.items()}
        q = answer_log_probabilities(exported, part, bfloat16=self.bfloat16)
        for total, values in zip(
            sums, _compare(self.answers(number)[kept].to(q.device), q, part["labels"]), strict=True
        ):
            total[own] = values
        return sums

    def _file(self, number: int) -> Path:
        return self.folder / f"{number}.safetensors"


def answer_log_probabilities(model: nn.Module, batch: Batch, *, bfloat16: bool = False) -> Tensor:
    """Log-probabilities (n, V) at the positions that predict a labelled token.

    A batch with `logits_to_keep`, which names these positions, has the model make no others.
    """
    inputs = {key: batch[key] for key in _INPUTS if key in batch}
    labelled = batch["labels"][:, 1:] != -100
    with default_prompt(batch.get("prompt_mask"), model), autocast(bfloat16, labelled.device):
        logits = model.eval()(**inputs).logits
    answers = logits.flatten(0, -2) if "logits_to_keep" in batch else logits[:, :-1][labelled]
    return answers.float().log_softmax(-1)  # type: ignore[no-any-return]


def _compare(p: Tensor, q: Tensor, labels: Tensor) -> list[Tensor]:
    """The sums of `Sums` over the positions of log-probabilities (n, V), for each row of labels (B, S)."""
    targets = labels[:, 1:]
    row, column = (targets != -100).nonzero(as_tuple=True)
    # Rounding may leave a divergence of nothing a little below it.
    kl = F.kl_div(q, p, reduction="none", log_target=True).sum(-1).clamp(min=0)
    same = (p.argmax(-1) == q.argmax(-1)).float()
    loss = -q.gather(-1, targets[row, column].unsqueeze(-1)).squeeze(-1)
    values = (kl, same, loss, torch.ones_like(kl))
    return [torch.zeros(len(labels), dtype=torch.float64).index_add_(0, row.cpu(), v.double().cpu()) for v in values]
