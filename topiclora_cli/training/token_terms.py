"""Terms of means over a step: measured in a micro-batch, judged over all that the step's means are made of."""

from collections.abc import Mapping

import torch
from torch import Tensor

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe.loss import LossSection
from topiclora_cli.training.losses.registry import TERMS, wanted
from topiclora_cli.training.losses.term import Term
from topiclora_cli.training.step import Step
from topiclora_cli.training.whole_step import Parts, WholeStep


def measure(step: Step, whole: WholeStep) -> dict[str, Parts]:
    """This micro-batch's parts of each wanted term's means, by router."""
    measured = {}
    for term in wanted(step.section):
        if term.parts is not None and (parts := term.parts(step, whole)):
            measured[term.name] = _pool(term.name, parts) if _together(term, step.section) == "pool" else parts
    return measured


def needs_means(section: LossSection) -> bool:
    """Whether a wanted term is a function of the whole step's means, and no mean itself."""
    return any(term.judge for term in wanted(section))


def whole_means(measured: Mapping[str, Parts]) -> Parts:
    """What other micro-batches and processes have to be added to, under names of its own."""
    return {
        _key(name, router): part.detach()
        for name, parts in measured.items()
        if TERMS[name].judge
        for router, part in parts.items()
    }


def token_loss(step: Step, whole: WholeStep, name: str, parts: Parts) -> Tensor:
    """This micro-batch's share of a term: the shares' sum over micro-batches, averaged over processes, is the term.

    The value of a term that is judged is shared out evenly; its gradient is that of the whole step's value.
    """
    term = TERMS[name]
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


def _together(term: Term, section: LossSection) -> str:
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
