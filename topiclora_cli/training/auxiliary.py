"""The losses beside language modelling of a micro-batch, summed up, and what is logged of them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from torch import Tensor

from topiclora_cli.training.model_losses import rank_penalty
from topiclora_cli.training.step import Step, prior_forcing
from topiclora_cli.training.terms import loss_terms
from topiclora_cli.training.token_terms import measure, whole_means
from topiclora_cli.training.whole_step import WholeStep, add_up


@dataclass(frozen=True)
class AuxiliaryLoss:
    """A micro-batch's share of the weighed sum of all terms, and its shares of what is logged, by name; all scalars."""

    total: Tensor
    logged: Mapping[str, Tensor]


def auxiliary_loss(step: Step, whole: WholeStep, accelerator: Accelerator | None) -> AuxiliaryLoss:
    """What the recipe's terms make of a forward pass.

    accelerator: by which processes exchange the step's means where one micro-batch each is the whole step; None where
    this process is alone with it.
    """
    # In full precision: a mean over tokens in bfloat16 rounds away what routers differ in.
    with torch.autocast(step.token_mask.device.type, enabled=False):
        measured = measure(step, whole)
        if whole.micro_batches == 1:
            whole = replace(whole, means=add_up(whole_means(measured), accelerator))
        terms = loss_terms(step, whole, measured)
        if (penalty := rank_penalty(step.model)) is not None:
            terms["adalora"] = (penalty[0], penalty[1] / whole.micro_batches)
        logged = {f"loss_{name}": value for name, (_, value) in terms.items()}
        if step.pooled:
            logged["routing_entropy"] = whole.processes * whole.of_examples(step.routing_entropy)
        total = torch.zeros((), device=step.token_mask.device)
        for weight, value in terms.values():
            total = total + weight * value
    scheduled = {"kl_weight": terms["kl"][0]} if "kl" in terms else {}
    if step.section.prior_forcing.start > 0:
        scheduled["prior_forcing"] = prior_forcing(step.section, step.progress)
    shares = {name: total.new_tensor(value / whole.micro_batches) for name, value in scheduled.items()}
    return AuxiliaryLoss(total, {**logged, **shares})
