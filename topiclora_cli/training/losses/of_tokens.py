"""The terms on what routers do with tokens and examples: measured in a micro-batch, judged over a whole step."""

from collections.abc import Callable

import torch
from torch import Tensor

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.training.losses.balance import (
    expert_activity,
    importance,
    local_balance,
    normal_profile,
    switch_balance,
)
from topiclora_cli.training.losses.certainty import (
    distribution_and_entropy,
    generalised_js,
    poisson_profile,
    sparsity,
    z_loss,
)
from topiclora_cli.training.losses.common import full_precision, probabilities
from topiclora_cli.training.losses.term import ROUTERS, SPARSE_BASE, Term
from topiclora_cli.training.step import Step
from topiclora_cli.training.whole_step import Parts, WholeStep


def _each_token(measured: Callable[[Step, Tensor, Tensor], Tensor]) -> Callable[[Step, WholeStep], Parts]:
    """Parts of means over tokens, from each router's logits and gates: layers may differ in their experts."""

    def parts(step: Step, whole: WholeStep) -> Parts:
        logits, gates = step.record.logits, step.record.gates
        return {name: whole.of_tokens(measured(step, logits[name], gates[name]), step.token_mask) for name in logits}

    return parts


def _activity(step: Step, whole: WholeStep) -> Parts:
    record, parts = step.record, {}
    for name, logits in record.logits.items():
        scores = {"softmax": probabilities(logits), "gates": full_precision(record.gates[name])}
        if name in record.excess:
            scores["excess"] = record.excess[name]
        wanted = step.section.balance.scores
        if wanted not in scores:
            raise TopicLoraError(
                f"loss.balance.scores is excess, but the router of {name} has no threshold.",
                "Set it to softmax or gates, or use adapter.router: threshold.",
            )
        parts[name] = whole.of_tokens(expert_activity(record.gates[name], scores[wanted]), step.token_mask)
    return parts


def _distributions(step: Step, whole: WholeStep) -> Parts:
    record, certainty, parts = step.record, step.section.gjs.certainty, {}
    for name, logits in record.logits.items():
        own, task = record.token_logits.get(name), record.task_logits.get(name)
        if own is not None or task is None:
            token = logits if own is None else own
            parts[name] = whole.of_tokens(distribution_and_entropy(token, certainty=certainty), step.token_mask)
        if task is not None:
            # Each example has one task, which its last position knows.
            parts[f"{name}, task"] = whole.of_examples(distribution_and_entropy(task[:, -1], certainty=certainty))
    return parts


def _importance(step: Step, whole: WholeStep) -> Parts:
    delta, gates = step.section.local_balance.delta, step.record.gates
    if delta and step.types is None:
        raise TopicLoraError(
            "loss.local_balance.delta is set, but it goes by examples' topic priors and there are none.",
            "Leave it out, or use a method with a topic graph or loss.kl.weight above 0.",
        )
    return {
        name: whole.of_examples(importance(gates[name], mask=step.token_mask, types=step.types, delta=delta))
        for name in step.record.logits
    }


def _base_activity(step: Step, whole: WholeStep) -> Parts:
    parts = {}
    for index, logits in enumerate(step.base_logits):
        chosen = logits.topk(step.base_top_k, dim=-1).indices
        active = torch.zeros_like(logits).scatter(-1, chosen, 1.0)
        parts[f"base router {index}"] = whole.of_tokens(expert_activity(active, probabilities(logits)), step.token_mask)
    return parts


OF_TOKENS = (
    Term("balance", ROUTERS, _activity, lambda section, means: switch_balance(means, counts=section.balance.counts)),
    Term("local_balance", ROUTERS, _importance, lambda _, means: local_balance(means)),
    Term(
        "normal",
        ROUTERS,
        _each_token(lambda _, __, gates: full_precision(gates)),
        lambda section, means: normal_profile(means, width=section.normal.width),
    ),
    Term(
        "gjs",
        ROUTERS,
        _distributions,
        lambda section, means: generalised_js(means, balance=section.gjs.balance, certainty=section.gjs.certainty),
    ),
    Term("z", ROUTERS, _each_token(lambda _, logits, __: z_loss(logits))),
    Term("poisson", ROUTERS, _each_token(lambda s, logits, _: poisson_profile(logits, rate=s.section.poisson.rate))),
    Term("sparsity", ROUTERS, _each_token(lambda s, _, gates: sparsity(gates, target=s.section.sparsity.target))),
    # As transformers has it: over the tokens of all layers together, and top_k where routing is even.
    Term("base_balance", SPARSE_BASE, _base_activity, lambda _, means: switch_balance(means, counts="tokens"), "pool"),
)
