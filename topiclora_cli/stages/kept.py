"""Where the scores of a model are kept, and what tells it from every other: its content, and what it computes on."""

import hashlib
import platform
from pathlib import Path

import torch
from peft import PeftModel

from topiclora_cli.evaluation.kept import KeptScores
from topiclora_cli.evaluation.subject import Loaded
from topiclora_cli.models.base import BaseModel
from topiclora_cli.models.content import base_content
from topiclora_cli.recipe import Recipe
from topiclora_cli.runs.cache import cache_dir
from topiclora_cli.runs.digests import folder_digests

KEPT = ".scores"  # beside the evaluations of a run


def kept_of_base(recipe: Recipe, *, reads: bool = True) -> KeptScores:
    """The scores of the recipe's base, which all runs share."""
    return KeptScores(cache_dir() / "scores", _digest(recipe), reads)


def kept_of_adapter(recipe: Recipe, adapter: Path, beside: Path, *, reads: bool) -> KeptScores:
    """The scores of an adapter's folder on the recipe's base, kept with the evaluations in the folder `beside`."""
    files = folder_digests(adapter, ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"))
    return KeptScores(beside / KEPT, _digest(recipe, files), reads)


def loaded(base: BaseModel, model: PeftModel | None = None) -> Loaded:
    """The base, or the adapter on it, with the tokenizer."""
    return model or base.model, base.tokenizer


def _digest(recipe: Recipe, files: dict[str, str] | None = None) -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    content = [base_content(recipe.model), recipe.train.precision, device, files]
    return hashlib.sha256(repr(content).encode()).hexdigest()
