"""What adding a topic to a trained run and dropping one have in common: the run as it is, and the new one beside it."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftConfig
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from topiclora_cli.adapters.grow import refuse_changes
from topiclora_cli.adapters.topiclora import TopicLoraConfig
from topiclora_cli.errors import TopicLoraError, first_line
from topiclora_cli.recipe import Recipe
from topiclora_cli.runs.commands import command_line
from topiclora_cli.runs.processes import process_count
from topiclora_cli.runs.run import RunDir
from topiclora_cli.stages.inputs import TRAINED_GRAPH, adapter_folder
from topiclora_cli.topics.store import TopicGraph

_TENSORS = "adapter_model.safetensors"


@dataclass(frozen=True, eq=False)
class Mixture:
    """A trained run's mixture of experts by topics, as its files have it."""

    config: TopicLoraConfig
    tensors: Mapping[str, Tensor]
    graph: TopicGraph


def open_mixture(recipe: Recipe, run: RunDir) -> Mixture:
    """The mixture of a trained run; raises TopicLoraError where there is none in which topics can come and go."""
    if process_count() > 1:
        raise TopicLoraError("Topics come and go in one process.", "Leave out torchrun.")
    if not run.is_done("train") and run.stage("import") is None:
        raise TopicLoraError(f"{run.path} is not trained.", f"Train it: {command_line('train', '--run', run.path)}")
    folder = adapter_folder(recipe, run)
    config: Any = PeftConfig.from_pretrained(str(folder))
    method = recipe.adapter.method
    if not isinstance(config, TopicLoraConfig):
        kind = "adapters beside a base's own experts" if "perft" in method else "no experts that topics choose"
        raise TopicLoraError(
            f"{run.path} was trained by {method}, which has {kind}.", "Topics come and go in runs of method: topiclora."
        )
    if not (run.path / TRAINED_GRAPH).exists():
        raise TopicLoraError(
            f"{run.path} was trained by {method} without topics.", "Topics come and go in runs of method: topiclora."
        )
    refuse_changes(config)
    try:
        tensors = load_file(folder / _TENSORS)
    except (OSError, SafetensorError) as error:
        raise TopicLoraError(f"{folder / _TENSORS} cannot be read: {first_line(error)}", "Train it again.") from None
    return Mixture(config, tensors, TopicGraph.load(run.path / TRAINED_GRAPH))


def write_mixture(folder: Path, tensors: Mapping[str, Tensor], config: TopicLoraConfig) -> None:
    """Write an adapter's files, and its card, into a folder that is made."""
    folder.mkdir(parents=True)
    save_file(dict(tensors), folder / _TENSORS, metadata={"format": "pt"})
    config.save_pretrained(str(folder))


def free_path(run: RunDir, out: Path | None, sign: str, topic: str) -> Path:
    """Where the new run goes, `out` or beside the run, named by the topic; raises TopicLoraError if that is taken."""
    name = re.sub(r"\W+", "-", topic.casefold()).strip("-") or "topic"
    beside = Path(os.path.normpath(run.path / os.pardir))
    path = out if out is not None else beside / f"{run.path.resolve().name}{sign}{name}"
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise TopicLoraError(f"{path} exists and is not empty.", "Choose another --out.")
    return path
