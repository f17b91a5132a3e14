"""A term of the training loss: what it is computed from, what the model must have for it, and how values become one."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from topiclora_cli.adapters.routers import CosineRouter, Router, TopicRouter
from topiclora_cli.adapters.topiclora import TopicLoraLayer
from topiclora_cli.recipe.loss import LossSection
from topiclora_cli.training.model_losses import BASE_COEFFICIENT
from topiclora_cli.training.step import Step
from topiclora_cli.training.whole_step import Parts, WholeStep


@dataclass(frozen=True)
class Need:
    """What a term is about: whether an adapted model, or its base, has it, and the sentence for where it has not."""

    present: Callable[[nn.Module, nn.Module], bool]
    otherwise: str


@dataclass(frozen=True)
class Term:
    """One loss beside language modelling, of a micro-batch and of the whole step that it is divided by.

    parts: a micro-batch's parts of the step's means over tokens or examples, by router; judge: what such a mean is
    worth, None for itself; together: how the values of several routers become one, where that is not
    loss.reduce_routers' to say. share: in place of parts, a micro-batch's share of the value itself, None where it has
    none. weight_at: the weight in the course of training, where that is not the recipe's. reads_weights: of the
    adapter, which FSDP takes apart.
    """

    name: str
    need: Need
    parts: Callable[[Step, WholeStep], Parts] | None = None
    judge: Callable[[LossSection, Tensor], Tensor] | None = None
    together: str | None = None
    share: Callable[[Step, WholeStep], Tensor | None] | None = None
    weight_at: Callable[[Step], float] | None = None
    reads_weights: bool = False

    def weight(self, section: LossSection) -> float:
        """The recipe's weight; the term is not computed where it is 0."""
        return float(section.terms[self.name].weight)

    @property
    def trains_routers(self) -> bool:
        """Whether routers learn from it by what they decide."""
        return self.need is ROUTERS


def _has(kind: type) -> Callable[[nn.Module, nn.Module], bool]:
    return lambda model, _: any(isinstance(module, kind) for module in model.modules())


ROUTERS = Need(_has(Router), "the adapter has no router")
MIXTURE = Need(_has(TopicLoraLayer), "the adapter has no mixture on a linear layer")
COSINE_ROUTERS = Need(_has(CosineRouter), "the adapter has no cosine router")
TRAINED_KEYS = Need(
    lambda model, _: any(isinstance(m, TopicRouter) and isinstance(m.keys, nn.Parameter) for m in model.modules()),
    "the adapter has no topic router that trains its keys",
)
SPARSE_BASE = Need(lambda _, base: hasattr(base, BASE_COEFFICIENT), "the base model reports no router loss")
