"""What a recipe's adapter counts on a model at any rank, and the rank that a budget buys.

A decoder is many layers of one kind, and an adapter takes as long to make as there are layers. Where they are alike it
is made for one and for two of them: what the second adds is what each of the others would.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from peft import PeftConfig
from torch import nn

from topiclora_cli.adapters.counting import count_on, empty_copy, parse_budget, plain_rank_on
from topiclora_cli.adapters.presets import make_config
from topiclora_cli.adapters.roles import never_called
from topiclora_cli.adapters.targets import is_moe_role, is_role
from topiclora_cli.adapters.topiclora.scope import count_layers
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe.adapter import MixtureSection, SizedSection

T = TypeVar("T")
Counts = tuple[int, int]  # trainable parameters in all, and those that take part in one token's forward pass
_RANKS = (4, 8)  # that show what a rank adds
_FEWEST = 4  # layers from which on counting on three of them is less
_OF_ANY_SHAPE = {"r", "lora_alpha", "budget"}


class AdapterSizes:
    """Sizes of adapters on a model, which stays as it is.

    by_layer: whether to count on few of its layers where all are alike, and to remember what was counted. counted: how
    a configuration is counted on a model.
    """

    def __init__(
        self, model: nn.Module, *, by_layer: bool = False, counted: Callable[[nn.Module, PeftConfig], Counts] = count_on
    ) -> None:
        self.model, self.by_layer, self.counted = model, by_layer, counted
        self._few: Sequence[nn.Module] | None = None
        self._known: dict[tuple[Any, ...], Any] = {}

    def count(self, section: SizedSection, rank: int, **extra: Any) -> Counts:
        """Parameters at a rank; raises as the making of the adapter does."""
        if extra or not self._are_alike(section):
            return self._on(None, self.counted, section, rank, **extra)
        one, two = (self._on(layers, self.counted, section, rank) for layers in (1, 2))
        others = len(set(section.layers_to_transform or range(count_layers(self.model)))) - 1
        return one[0] + others * (two[0] - one[0]), one[1] + others * (two[1] - one[1])

    def plain_rank(self, section: SizedSection, rank: int, **extra: Any) -> float:
        """The rank of the plain LoRA on the same layers with as many parameters, of an adapter of ours at a rank."""
        if not extra and self._are_alike(section):
            # Where nothing is adapted but layers, all are to their widths as one is to its own.
            one, two = (self._on(layers, plain_rank_on, section, _RANKS[0]) for layers in (1, 2))
            if one == two:
                return self._on(1, plain_rank_on, section, rank)
        return self._on(None, plain_rank_on, section, rank, **extra)

    def rank_for(self, budget: str, section: SizedSection, **extra: Any) -> int:
        """The rank whose trainable parameters come nearest to a budget.

        Parameters are a constant (routers) plus a multiple of the rank, so two counts decide it. Raises TopicLoraError
        where even rank 1 exceeds the budget by a tenth.
        """
        kind, wanted = parse_budget(budget, self.model)
        which = ("total", "activated").index(kind)
        low, high = (self.count(section, rank, **extra)[which] for rank in _RANKS)
        slope = (high - low) / (_RANKS[1] - _RANKS[0])
        rank = max(1, round((wanted - (low - _RANKS[0] * slope)) / slope))
        if (least := low - (_RANKS[0] - 1) * slope) > 1.1 * wanted:
            raise TopicLoraError(
                f"adapter.budget: even rank 1 has {round(least):,} {kind} parameters, more than {wanted:,}.",
                "Raise the budget, adapt fewer modules, or share routers (adapter.router_scope: layer).",
            )
        return rank

    def _on(
        self,
        layers: int | None,
        measure: Callable[[nn.Module, PeftConfig], T],
        section: SizedSection,
        rank: int,
        **extra: Any,
    ) -> T:
        """What is measured of the adapter on so many layers, or on the whole model."""
        model = self.model if layers is None else self._models()[layers - 1]
        if layers is not None and section.layers_to_transform is not None:
            section = section.model_copy(update={"layers_to_transform": list(range(layers))})
        key = (layers, measure, rank, section.model_dump_json(exclude=_OF_ANY_SHAPE))
        if key in self._known and not extra:
            known: T = self._known[key]
            return known
        found = measure(model, make_config(section.layer, {**section.model_dump(), "r": rank}, model, **extra))
        if self.by_layer and not extra:
            self._known[key] = found
        return found

    def _are_alike(self, section: SizedSection) -> bool:
        """Whether each adapted layer adds the same, as three of them show."""
        if not self.by_layer or not _says_no_layer(section) or not self._models():
            return False
        try:
            one, two, three = (self._on(layers, self.counted, section, _RANKS[0]) for layers in (1, 2, 3))
        except (TopicLoraError, ValueError, TypeError):
            return False  # the whole model says in its own words what is wrong
        return all(c - b == b - a for a, b, c in zip(one, two, three, strict=True))

    def _models(self) -> Sequence[nn.Module]:
        """The model with one, two and three of its layers; none where its layers are not alike."""
        if self._few is None:
            self._few = _with_few_layers(self.model)
        return self._few


def _says_no_layer(section: SizedSection) -> bool:
    """Whether a section has no way to tell layers apart: no number in a name, no expression, no list by depth."""
    said: list[str | list[str] | None] = [section.target_modules, section.exclude_modules, section.modules_to_save]
    if isinstance(section, MixtureSection):
        if section.experts_by_depth or section.ranks_by_depth:
            return False
        said.append(section.plain_modules)
    return not section.trained and all(map(_names_no_layer, said))


def _names_no_layer(wanted: str | list[str] | None) -> bool:
    if isinstance(wanted, str):
        return is_role(wanted) or is_moe_role(wanted)
    return not any(re.search(r"(^|\.)\d", name) for name in wanted or ())


def _with_few_layers(model: nn.Module) -> Sequence[nn.Module]:
    stacks = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    outer = [name for name in stacks if not any(name.startswith(f"{other}.") for other in stacks)]
    if len(outer) != 1 or not _FEWEST <= len(stacks[outer[0]]) == count_layers(model) or never_called(model):
        return ()
    layers = stacks[outer[0]]
    if any(_structure(layer) != _structure(layers[0]) for layer in layers):
        return ()
    parent, _, last = outer[0].rpartition(".")
    found = []
    with torch.device("meta"):
        for number in (1, 2, 3):
            few = empty_copy(model)
            stack: Any = few.get_submodule(outer[0])
            setattr(few.get_submodule(parent), last, stack[:number])
            found.append(few)
    return found


def _structure(layer: nn.Module) -> list[tuple[Any, ...]]:
    return [
        (name, type(module), [(key, value.shape) for key, value in module.named_parameters(recurse=False)])
        for name, module in layer.named_modules()
    ]
