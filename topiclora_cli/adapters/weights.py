"""Modules that look at the tensors given to them.

peft loads an adapter with `load_state_dict`, transformers by setting attributes, so both doors need a guard.
"""

from typing import Any

from torch import Tensor, nn

from topiclora_cli.adapters.old_files import rename_within
from topiclora_cli.errors import TopicLoraError


def check_finite(name: str, tensor: Tensor) -> None:
    """Raises TopicLoraError if an ordinary tensor with values holds NaN or infinity."""
    if type(tensor) in (Tensor, nn.Parameter) and not tensor.is_meta and not tensor.isfinite().all():
        raise TopicLoraError(f"{name} holds NaN or infinity.", "The adapter is damaged; train again.")


def check_loaded(name: str, module: nn.Module, prefix: str, state_dict: dict[str, Tensor]) -> None:
    """Raises TopicLoraError if what is about to be loaded into a layer's own tensors is damaged or of another size.

    name: the layer in the model; prefix: how the layer's keys start in `state_dict`, in which those of the first
    format are renamed.
    """
    rename_within(state_dict, prefix)
    for key, tensor in (*module.named_parameters(), *module.named_buffers()):
        loaded = state_dict.get(prefix + key)
        if loaded is None or key.startswith("base_layer."):
            continue
        if loaded.shape != tensor.shape:
            raise TopicLoraError(
                f"{name}: {key} is {tuple(loaded.shape)} in the adapter but {tuple(tensor.shape)} here.",
                "The adapter was trained on another base model.",
            )
        check_finite(f"{name}: {key}", loaded)


class CheckedModule(nn.Module):
    """A module whose parameters and buffers are finite when set, and train after replacement if they did before."""

    label = "The adapter"

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Tensor):
            check_finite(f"{self.label}.{name}", value)
            before = self._parameters.get(name)
            if isinstance(value, nn.Parameter) and before is not None:
                value.requires_grad_(before.requires_grad)
        super().__setattr__(name, value)


def read(factor: nn.Module) -> Tensor:
    """A factor's weight; where it lies elsewhere or something is wrapped around it, what a call gives."""
    if type(factor) is Factor and not (weight := factor.weight).is_meta:
        return weight
    return factor()  # type: ignore[no-any-return]


class Factor(CheckedModule):
    """A or B of all experts of one adapter: a leaf module whose only parameter is called weight.

    Other libraries look for such leaves: TRL copies what is named `.default.`, FSDP wraps leaves that train.
    """

    weight: nn.Parameter

    def __init__(self, label: str, weight: Tensor) -> None:
        super().__init__()
        self.label = label
        self.weight = nn.Parameter(weight)

    def forward(self) -> Tensor:
        """The weight, to be kept: what puts it into place for a call (accelerate, FSDP) takes it away afterwards."""
        return self.weight.clone()

    def extra_repr(self) -> str:
        """The weight's shape."""
        return "x".join(map(str, self.weight.shape))
