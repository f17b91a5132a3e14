"""The losses on held-out examples: per answer token and per example, however they are cut into batches."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from topiclora_cli.adapters.prompt import prompt_tokens
from topiclora_cli.adapters.record import record_routing
from topiclora_cli.recipe.schema import LossSection
from topiclora_cli.training.collate import IGNORE
from topiclora_cli.training.losses import pooled_probabilities, prior_distance
from topiclora_cli.training.step import aligned_layers


@torch.no_grad()
def validation_losses(
    model: nn.Module, batches: Iterable[dict[str, Any]], section: LossSection, accelerator: Accelerator
) -> dict[str, float]:
    """eval_loss, the language-modelling loss per labelled token, and eval_kl, the KL per example where it has a prior.

    Both are means over all examples of all processes, in nats.
    """
    model.eval()
    sums: dict[str, float] = {"loss": 0.0, "tokens": 0.0, "kl": 0.0, "examples": 0.0}
    with_prior = False
    for batch in batches:
        with_prior = with_prior or "prior" in batch
        measured = _per_example(model, dict(batch), section)
        # Processes get equal shares, the last filled up with examples from the front; gathering drops those again.
        gathered = accelerator.gather_for_metrics(measured)
        for name, values in gathered.items():
            sums[name] += float(values.double().sum())
    losses = {"eval_loss": sums["loss"] / max(1.0, sums["tokens"])}
    if with_prior and section.kl_weight > 0:
        losses["eval_kl"] = sums["kl"] / sums["examples"]
    return losses


def _per_example(model: nn.Module, batch: dict[str, Any], section: LossSection) -> dict[str, Tensor]:
    labels, mask = batch.pop("labels"), batch.pop("prompt_mask")
    prior, confidence = batch.pop("prior", None), batch.pop("confidence", None)
    if labels.shape[1] < batch["input_ids"].shape[1]:
        batch["logits_to_keep"] = labels.shape[1]
    with record_routing() as record, prompt_tokens(mask):
        logits = model(**batch).logits
    targets = labels[:, 1:]
    losses = F.cross_entropy(logits[:, :-1].float().transpose(1, 2), targets, ignore_index=IGNORE, reduction="none")
    kl = losses.new_zeros(len(labels))
    if prior is not None and record.logits:
        record.arrange(mask.shape)
        layers = aligned_layers(list(record.logits), section.kl_layers)
        pooled = torch.stack([pooled_probabilities(record.logits[name], mask=mask) for name in layers])
        kl = prior_distance(pooled, prior=prior, temperature=section.temperature, direction=section.kl_direction)
        kl = kl * confidence if section.confidence_weighted else kl
    return {
        "loss": losses.sum(1),
        "tokens": (targets != IGNORE).sum(1),
        "kl": kl,
        "examples": torch.ones_like(kl),
    }
