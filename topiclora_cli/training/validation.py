"""The losses on held-out examples: per answer token and per example, however they are cut into batches."""

from collections.abc import Iterable
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from topiclora_cli.adapters.prompt import prompt_tokens
from topiclora_cli.adapters.record import record_routing
from topiclora_cli.recipe.loss import LossSection
from topiclora_cli.training.batch import Batch
from topiclora_cli.training.label_losses import label_losses
from topiclora_cli.training.losses import pooled_probabilities, prior_distance
from topiclora_cli.training.step import aligned_layers, aligned_tokens


@torch.no_grad()
def validation_losses(
    model: nn.Module, batches: Iterable[dict[str, Any]], section: LossSection, accelerator: Accelerator
) -> dict[str, float]:
    """eval_loss, the language-modelling loss per labelled token, and eval_kl, the KL per example where it has a prior.

    Tokens count by their weights in the loss. Both are means over all examples of all processes, in nats.
    """
    model.eval()
    sums: dict[str, float] = {"loss": 0.0, "tokens": 0.0, "kl": 0.0, "examples": 0.0}
    with_prior = False
    for batch in batches:
        with_prior = with_prior or "prior" in batch
        measured = _per_example(model, batch, section)
        # Processes get equal shares, the last filled up with examples from the front; gathering drops those again.
        gathered = accelerator.gather_for_metrics(measured)
        for name, values in gathered.items():
            sums[name] += float(values.double().sum())
    losses = {"eval_loss": sums["loss"] / sums["tokens"] if sums["tokens"] else 0.0}
    if with_prior and section.kl.weight > 0:
        losses["eval_kl"] = sums["kl"] / sums["examples"]
    return losses


def _per_example(model: nn.Module, collated: dict[str, Any], section: LossSection) -> dict[str, Tensor]:
    batch = Batch.of(collated)
    with record_routing(model) as record, prompt_tokens(batch.prompt_mask, model):
        found = label_losses(model, batch)
    losses, weights = (torch.zeros(found.wanted.shape, device=found.wanted.device) for _ in range(2))
    losses[found.wanted], weights[found.wanted] = found.values, found.weights
    kl = losses.new_zeros(len(batch.token_mask))
    if batch.prior is not None and batch.confidence is not None and record.logits:
        batch.arrange(record)
        layers = aligned_layers(list(record.logits), section.kl.layers)
        mask = aligned_tokens(batch.prompt_mask, batch.token_mask, section.kl.tokens)
        pooled = torch.stack([pooled_probabilities(record.logits[name], mask=mask) for name in layers])
        kl = prior_distance(
            pooled,
            prior=batch.prior,
            temperature=section.kl.temperature,
            label=section.kl.label,
            smoothing=section.kl.smoothing,
            direction=section.kl.direction,
        )
        kl = kl * batch.confidence if section.kl.confidence_weighted else kl
    return {
        "loss": (batch.by_example(losses * weights) * batch.token_mask).sum(1),
        "tokens": (batch.by_example(weights) * batch.token_mask).sum(1),
        "kl": kl,
        "examples": torch.ones_like(kl),
    }
