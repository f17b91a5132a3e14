"""The terms on what routers do with tokens and examples: measured in a micro-batch, judged over a whole step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe.loss import LossSection
from topiclora_cli.training.losses import (
    distribution_and_entropy,
    expert_activity,
    full_precision,
    generalised_js,
    importance,
    local_balance,
    normal_profile,
    poisson_profile,
    probabilities,
    sparsity,
    switch_balance,
    z_loss,
)
from topiclora_cli.training.step import Step
from topiclora_cli.training.whole_step import Parts


@dataclass(frozen=True)
class TokenTerm:
    """parts: a micro-batch's parts of the step's means, by router; judge: what such a mean is worth, None for itself.

    together: how the values of several routers become one, where that is not loss.reduce_routers' to say.
    """

    parts: Callable[[Step], Parts]
    judge: Callable[[LossSection, Tensor], Tensor] | None = None
    together: str | None = None


def measure(step: Step) -> dict[str, Parts]:
    """This micro-batch's parts of each wanted term's means, by router."""
    measured = {}
    for name, term in TOKEN_TERMS.items():
        if getattr(step.section, name).weight > 0 and (parts := term.parts(step)):
            measured[name] = _pool(name, parts) if _together(term, step.section) == "pool" else parts
    return measured


def needs_means(section: LossSection) -> bool:
    """Whether a wanted term is a function of the whole step's means, and no mean itself."""
    return any(term.judge and getattr(section, name).weight > 0 for name, term in TOKEN_TERMS.items())


def whole_means(measured: Mapping[str, Parts]) -> Parts:
    """What other micro-batches and processes have to be added to, under names of its own."""
    return {
        _key(name, router): part.detach()
        for name, parts in measured.items()
        if TOKEN_TERMS[name].judge
        for router, part in parts.items()
    }


def token_loss(step: Step, name: str, parts: Parts) -> Tensor:
    """This micro-batch's share of a term: the shares' sum over micro-batches, averaged over processes, is the term.

    The value of a term that is judged is shared out evenly; its gradient is that of the whole step's value.
    """
    term, whole = TOKEN_TERMS[name], step.whole
    if term.judge is None:
        values = [whole.processes * part for part in parts.values()]
    else:
        values = []
        for router, part in parts.items():
            # The step's mean, as a function of what this micro-batch has added to it.
            total = whole.means[_key(name, router)] + whole.processes * (part - part.detach())
            value = term.judge(step.section, total)
            values.append(value - value.detach() * (1 - 1 / whole.micro_batches))
    stacked = torch.stack(values)
    return stacked.sum() if _together(term, step.section) == "sum" else stacked.mean()


def _together(term: TokenTerm, section: LossSection) -> str:
    return term.together or section.reduce_routers


def _key(name: str, router: str) -> str:
    return f"{name} of {router}"


def _pool(name: str, parts: Parts) -> Parts:
    if len({part.shape for part in parts.values()}) > 1:
        raise TopicLoraError(
            f"loss.{name}.weight is above 0 and routers are pooled, but they differ in their number of experts.",
            "Set loss.reduce_routers to mean or sum.",
        )
    return {"all routers": torch.stack(list(parts.values())).mean(0)}


def _each_token(measured: Callable[[Step, Tensor, Tensor], Tensor]) -> Callable[[Step], Parts]:
    """Parts of means over tokens, from each router's logits and gates: layers may differ in their experts."""

    def parts(step: Step) -> Parts:
        logits, gates = step.record.logits, step.record.gates
        return {name: step.of_tokens(measured(step, logits[name], gates[name])) for name in logits}

    return parts


def _activity(step: Step) -> Parts:
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
        parts[name] = step.of_tokens(expert_activity(record.gates[name], scores[wanted]))
    return parts


def _distributions(step: Step) -> Parts:
    record, certainty, parts = step.record, step.section.gjs.certainty, {}
    for name, logits in record.logits.items():
        own, task = record.token_logits.get(name), record.task_logits.get(name)
        if own is not None or task is None:
            token = logits if own is None else own
            parts[name] = step.of_tokens(distribution_and_entropy(token, certainty=certainty))
        if task is not None:
            # Each example has one task, which its last position knows.
            parts[f"{name}, task"] = step.of_examples(distribution_and_entropy(task[:, -1], certainty=certainty))
    return parts


def _importance(step: Step) -> Parts:
    delta, gates = step.section.local_balance.delta, step.record.gates
    if delta and step.types is None:
        raise TopicLoraError(
            "loss.local_balance.delta is set, but it goes by examples' topic priors and there are none.",
            "Leave it out, or use a method with a topic graph or loss.kl.weight above 0.",
        )
    return {
        name: step.of_examples(importance(gates[name], mask=step.token_mask, types=step.types, delta=delta))
        for name in step.record.logits
    }


def _base_activity(step: Step) -> Parts:
    parts = {}
    for index, logits in enumerate(step.base_logits):
        chosen = logits.topk(step.base_top_k, dim=-1).indices
        active = torch.zeros_like(logits).scatter(-1, chosen, 1.0)
        parts[f"base router {index}"] = step.of_tokens(expert_activity(active, probabilities(logits)))
    return parts


TOKEN_TERMS: Mapping[str, TokenTerm] = {
    "balance": TokenTerm(_activity, lambda section, means: switch_balance(means, counts=section.balance.counts)),
    "local_balance": TokenTerm(_importance, lambda _, means: local_balance(means)),
    "normal": TokenTerm(
        _each_token(lambda _, __, gates: full_precision(gates)),
        lambda section, means: normal_profile(means, width=section.normal.width),
    ),
    "gjs": TokenTerm(
        _distributions,
        lambda section, means: generalised_js(means, balance=section.gjs.balance, certainty=section.gjs.certainty),
    ),
    "z": TokenTerm(_each_token(lambda _, logits, __: z_loss(logits))),
    "poisson": TokenTerm(_each_token(lambda s, logits, _: poisson_profile(logits, rate=s.section.poisson.rate))),
    "sparsity": TokenTerm(_each_token(lambda s, _, gates: sparsity(gates, target=s.section.sparsity.target))),
    # As transformers has it: over the tokens of all layers together, and top_k where routing is even.
    "base_balance": TokenTerm(_base_activity, lambda _, means: switch_balance(means, counts="tokens"), "pool"),
}
