"""Writes exports, and reads each of them back as others will, by stock tools from disk."""

import gc
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM

from topiclora_cli.adapters.card import Card, write_dense_card
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.merging.collapse import PlainLora, merge_into_base
from topiclora_cli.merging.space import check_space
from topiclora_cli.models.base import BaseModel
from topiclora_cli.recipe import Recipe
from topiclora_cli.stages.inputs import open_base
from topiclora_cli.training.saving import write_adapter

SHARD = "5GB"
_CONVERTERS = ("convert_hf_to_gguf.py", "convert-hf-to-gguf")


@dataclass(frozen=True)
class Written:
    """What lies in `folder`, in one of merge.formats; name: of one of several LoRAs, else the format."""

    format: str
    name: str
    folder: Path


def as_torch_dtype(recipe: Recipe) -> torch.dtype:
    """The precision of what is written."""
    return getattr(torch, recipe.merge.dtype or recipe.model.dtype)  # type: ignore[no-any-return]


def check_disk(recipe: Recipe, base: BaseModel, loras: Mapping[str, PlainLora], folder: Path) -> None:
    """Raises TopicLoraError where the formats that the recipe wants do not fit on the disk."""
    section = recipe.merge
    size = as_torch_dtype(recipe).itemsize
    model = sum(p.numel() for p in base.model.parameters()) * size
    lora = sum(a.numel() + b.numel() for plain in loras.values() for a, b in plain.factors.values()) * size
    share = {"lora": lora, "experts": lora, "dense": model, "gguf": 2 * model, "self-loading": 2 * model}
    check_space(folder, sum(share[format_] for format_ in section.formats))


def write_plain(recipe: Recipe, loras: Mapping[str, PlainLora], folder: Path, *, several: bool) -> list[Written]:
    """The formats made of fixed gates, `lora`, `dense` and `gguf`, under `folder`; of several, LoRAs alone."""
    section = recipe.merge
    written: list[Written] = []
    formats = [each for each in section.formats if each in ("lora", "dense", "gguf")]
    if not formats:
        return []
    base = open_base(recipe, exact=True)
    for name, plain in loras.items():
        lora = in_dtype(plain.onto(base.model), section.dtype)
        if "lora" in formats:
            place = folder / "lora" / name if several else folder / "lora"
            place.mkdir(parents=True)
            write_adapter(lora, place, card=lora_card(section.gates, name if several else None), about=base.about)
            written.append(Written("lora", name if several else "lora", place))
        if several:
            base = _without(recipe, base, lora, plain)
        elif {"dense", "gguf"} & set(formats):
            written += _write_dense(recipe, base, lora, folder)
    return written


def read_back(recipe: Recipe, export: Written, base: BaseModel | None = None) -> nn.Module:
    """The export as stock tools load it, ready to run; base: one that a LoRA may be put on, loaded unless given."""
    place = "cuda" if torch.cuda.is_available() else "cpu"
    if export.format == "lora":
        base = base or open_base(recipe)
        return PeftModel.from_pretrained(base.model, export.folder).eval()
    options: dict[str, Any] = {"dtype": as_torch_dtype(recipe)}
    if export.format == "self-loading":
        options["trust_remote_code"] = True
    if export.format == "gguf":
        options["gguf_file"] = next(export.folder.glob("*.gguf")).name
    model: Any = AutoModelForCausalLM.from_pretrained(export.folder, **options)
    return model.to(place).eval()  # type: ignore[no-any-return]


def in_dtype(lora: PeftModel, dtype: str | None) -> PeftModel:
    """The LoRA with its own weights in this precision."""
    if dtype is not None:
        for name, module in lora.named_modules():
            if name.endswith((".lora_A", ".lora_B")):
                module.to(getattr(torch, dtype))
    return lora


def lora_card(gates: str, name: str | None) -> Card:
    """What the card of a LoRA with fixed gates says."""
    of = f"{gates}: {name}" if name else gates
    return stock_card(
        "LoRA with fixed gates",
        f"A plain LoRA in the place of a mixture of LoRA experts, whose gates are fixed for it ({of}).",
    )


def stock_card(title: str, summary: str) -> Card:
    """The card of a LoRA that needs nothing of ours."""
    serving = "Whatever serves a LoRA serves it."
    return Card(title=title, summary=summary, serving=serving, shown=("r", "lora_alpha"), stock=True)


def require_converter() -> str:
    """llama.cpp's converter; raises TopicLoraError where it is not installed."""
    found = next(filter(None, map(which, _CONVERTERS)), None)
    if found is None:
        raise TopicLoraError(
            f"--to gguf needs llama.cpp's converter, {_CONVERTERS[0]}, on the PATH.",
            "Install llama.cpp, or write --to dense and convert that.",
        )
    return found


def _without(recipe: Recipe, base: BaseModel, lora: PeftModel, plain: PlainLora) -> BaseModel:
    """The base as it was, for the next of several LoRAs."""
    if plain.carried.modules or plain.carried.rows:  # peft leaves trained modules in the place of the base's
        del lora, base
        gc.collect()
        return open_base(recipe, exact=True)
    lora.unload()
    return base


def _write_dense(recipe: Recipe, base: BaseModel, lora: PeftModel, folder: Path) -> list[Written]:
    section = recipe.merge
    dense = merge_into_base(lora)
    if section.dtype is not None:
        dense.to(getattr(torch, section.dtype))  # type: ignore[arg-type]
    place = folder / "dense"
    dense.save_pretrained(place, max_shard_size=SHARD)
    base.tokenizer.save_pretrained(place)
    write_dense_card(place, base.name or base.source, section.gates)
    written = [Written("dense", "dense", place)]
    if "gguf" in section.formats:
        written.append(_convert(place, folder / "gguf"))
    return written


def _convert(dense: Path, folder: Path) -> Written:
    folder.mkdir()
    command = [require_converter(), str(dense), "--outfile", str(folder / "model.gguf"), "--outtype", "auto"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not (folder / "model.gguf").is_file():
        said = (done.stderr or done.stdout).strip().splitlines()
        raise TopicLoraError(
            f"{_CONVERTERS[0]} failed: {said[-1] if said else 'without a word'}", "Mend that, or write --to dense."
        )
    return Written("gguf", "gguf", folder)
