"""Stock LoRA on exactly the layers that are named.

On a base whose experts transformers has fused, peft takes names such as gate_proj for the experts, wherever a layer of
that name stands: shared experts and dense blocks would go without, and the routed experts would be adapted in their
place. There a linear layer's weight is named as a parameter, which peft takes at its word: W + s B A, the same thing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from peft import LoraConfig, get_peft_model
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import nn

from topiclora_cli.errors import TopicLoraError, first_line

WEIGHT = ".weight"
_MOVE_THE_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga")


def moves_base(settings: Mapping[str, Any]) -> bool:
    """Whether a LoRA with these settings of peft's starts by altering the base's weights, which A and B belong to."""
    return str(settings.get("init_lora_weights")).lower().startswith(_MOVE_THE_BASE)


@dataclass(frozen=True)
class LoraTargets:
    """What a LoraConfig names to adapt exactly some layers, under its own keywords."""

    target_modules: list[str]
    target_parameters: list[str] | None

    def pattern(self, values: Mapping[str, int]) -> dict[str, int]:
        """A rank or alpha pattern, from values by the layers' names."""
        parameters = set(self.target_parameters or ())
        return {name + WEIGHT * (name + WEIGHT in parameters): value for name, value in values.items()}


def lora_targets(model: nn.Module, names: Iterable[str]) -> LoraTargets:
    """What adapts the linear layers of these full names, and nothing else.

    Raises TopicLoraError where a weight that must be named as a parameter is packed.
    """
    names = sorted(names)
    renamed = _renamed(model, names)
    for name in renamed:
        if not model.get_submodule(name).weight.is_floating_point():  # type: ignore[operator, union-attr]
            raise TopicLoraError(
                f"peft cannot adapt {name} of this model while it is quantised.",
                "Leave it out of adapter.target_modules, or leave out model.quantization.",
            )
    return LoraTargets(
        [name for name in names if name not in renamed],
        [name + WEIGHT for name in names if name in renamed] or None,
    )


def why_no_lora(skeleton: nn.Module, names: Iterable[str]) -> str | None:
    """Why peft puts no stock LoRA on these layers of an empty model, in its words; None where it does."""
    try:
        get_peft_model(skeleton, LoraConfig(r=1, **vars(lora_targets(skeleton, names))))  # type: ignore[arg-type]
    except ValueError as error:
        return first_line(error)
    return None


def _renamed(model: nn.Module, names: Iterable[str]) -> set[str]:
    """Those of the names that peft would take for something else."""
    names = set(names)
    leaves = {name.rpartition(".")[2] for name in names}
    return {name for name in names if name.rpartition(".")[2] in {leaf for leaf in leaves if _is_renamed(model, leaf)}}


def _is_renamed(model: nn.Module, leaf: str) -> bool:
    config = LoraConfig(target_modules=[leaf])
    try:
        convert_peft_config_for_transformers(config, model=model, conversions=None)
    except ValueError:  # one of several that are fused into one
        return True
    return leaf not in (config.target_modules or ())
