"""What a method costs on a model, counted on its structure without weights."""

from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftConfig
from torch import nn
from transformers import PreTrainedModel

from topiclora_cli.adapters.counting import activated_base_parameters, count_on, count_parameters, empty_copy, rank_of
from topiclora_cli.adapters.topiclora import TopicLoraConfig
from topiclora_cli.models.base import load_skeleton
from topiclora_cli.recipe.adapter import AdapterSection, ExpertsSection, LoraSection, PerftSection, SizedSection
from topiclora_cli.recipe.methods import PLAIN
from topiclora_cli.recipe.schema import UpcycleSection
from topiclora_cli.runs.held import held
from topiclora_cli.scaling import stock_law
from topiclora_cli.training.attach import attach, solve
from topiclora_cli.training.sizes import AdapterSizes


@dataclass(frozen=True)
class Skeleton:
    """A model's structure, how many of its parameters each token meets, and the sizes of adapters on it."""

    model: PreTrainedModel
    activated: int
    sizes: AdapterSizes


@dataclass(frozen=True)
class Counted:
    """An adapter on a model: its rank, its first step as MethodRow has it, and its parameters in all and per token.

    percent: activated ones per hundred of the base's.
    """

    rank: int
    first_step: float | None
    total: int
    activated: int
    percent: float


def open_skeleton(name: str, *, config_only: bool, upcycle: UpcycleSection | None) -> Skeleton:
    """A model by name as `load_skeleton` finds it, and raises where it does not; `held` keeps the last one."""

    def make() -> Skeleton:
        model = load_skeleton(name, config_only=config_only, upcycle=upcycle)
        sizes = AdapterSizes(model, by_layer=True, counted=_count_attached)
        return Skeleton(model, activated_base_parameters(model), sizes)

    return held("skeleton", (name, upcycle), make)


def count(section: AdapterSection, skeleton: Skeleton) -> Counted:
    """A method's settings on a model; raises TopicLoraError where they do not fit it, or the budget."""
    config = solve(section, skeleton.model, sizes=skeleton.sizes)
    total, activated = _parameters(section, config, skeleton)
    step = _first_step(section, config, skeleton.sizes)
    return Counted(rank_of(config), step, total, activated, 100 * activated / skeleton.activated)


def parameters(section: AdapterSection, skeleton: Skeleton) -> tuple[int, int]:
    """Trainable parameters in all and per token; raises as `count`."""
    return _parameters(section, solve(section, skeleton.model, sizes=skeleton.sizes), skeleton)


def _parameters(section: AdapterSection, config: PeftConfig, skeleton: Skeleton) -> tuple[int, int]:
    if isinstance(section, SizedSection) and not section.trained:
        return skeleton.sizes.count(section, rank_of(config))
    return count_on(skeleton.model, config)


def _count_attached(model: nn.Module, config: PeftConfig) -> tuple[int, int]:
    """Raises as `attach` does."""
    with torch.device("meta"):
        return count_parameters(attach(empty_copy(model), config))


def _first_step(section: AdapterSection, config: Any, sizes: AdapterSizes) -> float | None:
    """That of scaling.first_step, on the model's own layers."""
    plain = PLAIN["lora_alpha"] / PLAIN["r"]
    if isinstance(section, LoraSection):
        return stock_law(section.model_dump()).scale(config.lora_alpha, config.r) / plain
    parallel = isinstance(section, PerftSection) and section.adapter_type == "parallel"
    if not isinstance(section, ExpertsSection) or parallel:
        return None
    if isinstance(config, TopicLoraConfig):
        numbers = range(len(config.experts_per_layer or config.ranks_per_layer or [0]))
        layers: list[Any] = [config.at("", layer) for layer in numbers]
    elif config.follows_base:
        return None
    else:
        layers = [config]
    moved = sum(layer.scale * layer.r * layer.gates_at_start for layer in layers) / len(layers)
    return float(moved / (plain * sizes.plain_rank(section, rank_of(config))))
