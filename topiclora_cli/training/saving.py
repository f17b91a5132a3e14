"""A trained adapter on disk and back: all of what trains, whichever method it is.

peft's own `save_pretrained` leaves out of an X-LoRA its classifier and its experts, and drops of an AdaLoRA the ranks
that are pruned for the moment, which a checkpoint must go on with. Where a start has altered the base's weights, a file
of its own (moved_base.py) says how the adapter is written all the same.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict
from peft.utils.constants import EMBEDDING_LAYER_NAMES
from safetensors.torch import load_file, save_file
from torch import Tensor

from topiclora_cli.adapters.card import Card, complete_card
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.runs.files import replacing
from topiclora_cli.training.moved_base import TENSORS, read_on_moved_base, write_on_untouched_base


def save_adapter(
    model: PeftModel,
    path: Path,
    state: Mapping[str, Tensor] | None = None,
    *,
    card: Card | None = None,
    about: str = "",
) -> None:
    """Write a peft adapter folder in one step, as `write_adapter` does.

    state: the weights of a model that is sharded over processes.
    """
    with replacing(path) as temporary:
        write_adapter(model, temporary, state, card=card, about=about)


def write_adapter(
    model: PeftModel,
    folder: Path,
    state: Mapping[str, Tensor] | None = None,
    *,
    card: Card | None = None,
    about: str = "",
) -> None:
    """Write the adapter's files into `folder`, every trained tensor among them, and its card.

    card: of an adapter that is peft's own; about: what is to be said of the base, in Markdown.
    """
    values = dict(state) if state is not None else model.state_dict()
    name = _name(model)
    with _every_rank(model):
        model.save_pretrained(
            str(folder), selected_adapters=[name], state_dict=values, save_embedding_layers=_embeddings(model)
        )
        others = left_out(model, values)
    complete_card(folder, model.peft_config[name], card, about)
    write_on_untouched_base(model, folder, name)
    if others:
        tensors = {key: tensor.detach().contiguous().cpu() for key, tensor in others.items()}
        save_file({**load_file(folder / TENSORS), **tensors}, folder / TENSORS, metadata={"format": "pt"})


def read_adapter(model: PeftModel, folder: Path) -> None:
    """Give a model that trains the values that `write_adapter` wrote of it.

    Raises TopicLoraError where the files lack any of what trains here.
    """
    name = _name(model)
    tensors = read_on_moved_base(model, load_peft_weights(str(folder), device="cpu"), name)
    with _every_rank(model):
        result: Any = set_peft_model_state_dict(model, tensors, name)
    trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    if lacking := sorted(trained & set(result.missing_keys)):
        raise TopicLoraError(
            f"{folder} lacks {lacking[0]} and {len(lacking) - 1} more of what this adapter trains.",
            "Start a new run with --out.",
        )


def left_out(model: PeftModel, values: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Of the model's values by name, those that train and that peft would not save."""
    values = values if values is not None else model.state_dict()
    saved = get_peft_model_state_dict(
        model, state_dict=dict(values), adapter_name=_name(model), save_embedding_layers=False
    )
    kept = {id(tensor) for tensor in saved.values()}
    trained = (name for name, parameter in model.named_parameters() if parameter.requires_grad)
    return {name: values[name] for name in trained if id(values[name]) not in kept}


def _embeddings(model: PeftModel) -> bool | str:
    """Whether peft is to save the base's embeddings: as it judges itself where an adapter is on them.

    Elsewhere it would look for the base by name, on a hub, to learn whether they have grown, which no training does.
    """
    layers = (name for name, layer in model.named_modules() if isinstance(layer, BaseTunerLayer))
    return "auto" if any(name.rpartition(".")[2] in EMBEDDING_LAYER_NAMES for name in layers) else False


def _name(model: PeftModel) -> str:
    # Those that X-LoRA mixes come after it.
    return next(iter(model.peft_config))


@contextmanager
def _every_rank(model: PeftModel) -> Iterator[None]:
    """Within the block peft sees nothing pruned: an AdaLoRA has the same function with its masked ranks as without."""
    config = model.peft_config[_name(model)]
    before = getattr(config, "rank_pattern", None)
    prunes = hasattr(config, "target_r") and before
    if prunes:
        config.rank_pattern = None  # type: ignore[attr-defined]
    try:
        yield
    finally:
        if prunes:
            config.rank_pattern = before  # type: ignore[attr-defined]
