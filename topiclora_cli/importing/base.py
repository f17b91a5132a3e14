"""The base model's structure, without weights: for what a checkpoint leaves unsaid, and to check an import against."""

import copy
from dataclasses import dataclass

from peft import get_peft_model
from peft.utils import get_peft_model_state_dict
from torch import nn
from transformers import PreTrainedModel

from topiclora_cli.adapters.roles import is_linear
from topiclora_cli.adapters.topiclora.scope import count_layers
from topiclora_cli.errors import TopicLoraError, first_line
from topiclora_cli.importing.imported import Imported
from topiclora_cli.models.base import load_skeleton


@dataclass(frozen=True)
class Base:
    """The base that an adapter goes on: its name, and its structure where that could be read, else why not."""

    name: str
    model: PreTrainedModel | None = None
    reason: str = ""

    @property
    def layers(self) -> int | None:
        """The number of its decoder layers, where it is known."""
        return None if self.model is None else count_layers(self.model)

    def linears(self, within: str = "") -> dict[str, tuple[int, int]]:
        """Linear layers within a block by name, each with its features in and out; none where it is not known."""
        prefix = f"{within}." if within else ""
        named = () if self.model is None else self.model.named_modules()
        return {name: _features(module) for name, module in named if name.startswith(prefix) and is_linear(module)}


def look_up(name: str) -> Base:
    """The base of that name, without a structure where it is not within reach."""
    try:
        return Base(name, load_skeleton(name))
    except TopicLoraError as error:
        return Base(name, reason=error.message)


def check_fits(imported: Imported, base: Base) -> None:
    """Raise TopicLoraError, naming them, where an adapter's tensors are not those that it has on its base."""
    if base.model is None:
        return
    try:
        model = get_peft_model(copy.deepcopy(base.model), imported.config)
    except TopicLoraError:
        raise
    except ValueError as error:
        raise _unfit(base, first_line(error)) from None
    wanted = get_peft_model_state_dict(model, save_embedding_layers=False)  # type: ignore[arg-type]
    shapes = {key: tuple(tensor.shape) for key, tensor in wanted.items()}
    given = {key: tuple(tensor.shape) for key, tensor in imported.tensors.items()}
    for key in sorted(given.keys() | shapes.keys()):
        name = key.removeprefix("base_model.model.")
        if key not in shapes:
            raise _unfit(base, f"{name} has no place there.")
        if key not in given:
            raise _unfit(base, f"{name} is not in the checkpoint.")
        if given[key] != shapes[key]:
            raise _unfit(base, f"{name} is {given[key]} in the checkpoint and would be {shapes[key]} there.")


def _unfit(base: Base, reason: str) -> TopicLoraError:
    return TopicLoraError(
        f"The checkpoint does not fit {base.name}: {reason}", "Name the base that it was trained on with --base."
    )


def _features(module: nn.Module) -> tuple[int, int]:
    conv = hasattr(module, "nx")  # transformers' Conv1D
    return (module.nx, module.nf) if conv else (module.in_features, module.out_features)  # type: ignore[return-value]
