"""What the tests of formats share: checkpoints as publishers' savers write them, and models that compute as they do.

Nothing here knows our adapters. A layer of a format is a module of its own in the place of the base's, which holds the
tensors as the publisher's class does and follows that class's forward pass line by line.
"""

import json
from pathlib import Path

import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM

from tests.adapters.helpers import TOKENS, logits
from topiclora_cli.importing.imported import Asked
from topiclora_cli.runs.progress import LoggedProgress
from topiclora_cli.stages.import_adapter import import_adapter

__all__ = ["TOKENS", "Asked", "bring", "draw", "linears", "logits", "put", "save", "served"]


def draw(*shape, seed=[0]):  # noqa: B006 -- one after another, the same in every test
    """A tensor of the next values."""
    seed[0] += 1
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed[0])) * 0.3


def linears(model, *names):
    """The layers of these last names, by name."""
    return {name: module for name, module in model.named_modules() if name.rpartition(".")[2] in names}


def put(model, name, module):
    """Have a module take the place of another."""
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)


def save(folder: Path, tensors, settings, *, weights="adapter_model.bin", config="adapter_config.json"):
    """A checkpoint by torch.save, as all of these publishers save."""
    folder.mkdir(exist_ok=True)
    torch.save({key: nn.Parameter(value) for key, value in tensors.items()}, folder / weights)
    if settings is not None:
        (folder / config).write_text(json.dumps(settings))
    return folder


def bring(path, out, progress=None, **options):
    """Import a checkpoint; returns what came of it."""
    return import_adapter(path, out, progress or LoggedProgress(), **options)


def served(base_dir, out):
    """The logits of an imported adapter on its base, through stock peft."""
    return logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_dir), out).eval())
