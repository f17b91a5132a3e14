"""Which auxiliary losses a recipe asks for, computed from one recorded forward pass."""

from collections.abc import Mapping

from torch import Tensor, nn

from topiclora_cli.adapters.forcing import choosing_routers
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe.loss import LossSection
from topiclora_cli.training.losses.registry import TERMS, wanted
from topiclora_cli.training.step import Step
from topiclora_cli.training.token_terms import token_loss
from topiclora_cli.training.whole_step import Parts, WholeStep


def refuse_sharded_terms(section: LossSection) -> None:
    """Raises TopicLoraError for a weight above zero whose term cannot be computed on sharded parameters."""
    for term in wanted(section):
        if term.reads_weights:
            raise TopicLoraError(
                f"loss.{term.name}.weight is above 0, but its term reads weights that FSDP shards.",
                "Set it to 0, or train without FSDP: processes then hold the whole model each.",
            )


def reach_routers(section: LossSection) -> bool:
    """Whether a term with a weight above zero trains routers by what they decide, used or not."""
    return any(term.trains_routers for term in wanted(section))


def refuse_idle_terms(section: LossSection, model: nn.Module, base: nn.Module) -> None:
    """Raises TopicLoraError where a weight is above zero and nothing in the adapted model or its base has the term."""
    for term in wanted(section):
        if not term.need.present(model, base):
            raise TopicLoraError(
                f"loss.{term.name}.weight is above 0, but {term.need.otherwise}.",
                "Set it to 0, or change adapter.method or model.name.",
            )
    if section.prior_forcing.start > 0 and not choosing_routers(model):
        raise TopicLoraError(
            "loss.prior_forcing.start is above 0, but the adapter has no router whose choice a prior could force.",
            "Set it to 0, or change adapter.router or adapter.method.",
        )


def loss_terms(step: Step, whole: WholeStep, measured: Mapping[str, Parts]) -> dict[str, tuple[float, Tensor]]:
    """Weight of each term above zero and this micro-batch's share of its value; the others are not computed.

    A term is the sum of the shares of a step's micro-batches, averaged over processes. measured: what
    `token_terms.measure` found. Raises TopicLoraError where the prior and a router disagree about the number of
    experts.
    """
    section = step.section
    terms = {
        name: (TERMS[name].weight(section), token_loss(step, whole, name, parts)) for name, parts in measured.items()
    }
    for term in wanted(section):
        if term.share is not None and (value := term.share(step, whole)) is not None:
            terms[term.name] = (term.weight_at(step) if term.weight_at else term.weight(section), value)
    return terms
