"""The frozen base model: from a hub, a folder or a Python package, and upcycled first if asked."""

import hashlib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from topiclora_cli.errors import TopicLoraError, first_line
from topiclora_cli.models.names import about_base, name_for_others
from topiclora_cli.models.packages import PACKAGE_PREFIX, resolve_source
from topiclora_cli.models.upcycle import Upcycled, check_dense, mixtral_config, write_upcycled
from topiclora_cli.recipe.schema import UpcycleSection
from topiclora_cli.runs.cache import cached_model

_UPCYCLE_FORMAT = 1  # one more whenever upcycling writes something else for the same settings
_KNOWN_CONFIGS = Path(__file__).with_name("known_configs.yaml")


@dataclass(frozen=True)
class BaseModel:
    """A causal language model with its tokenizer and the path or hub id that loads it again.

    masks_padding: whether it can read a padded batch, taking no notice of the padding. selects_logits: whether batches
    may ask it for some tokens' logits alone (logits.py). name: what adapters call it. about: how others load exactly
    it, in Markdown.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: str
    masks_padding: bool = True
    selects_logits: bool = False
    name: str | None = None
    about: str = ""


def load_base(
    name: str,
    *,
    dtype: str = "float32",
    revision: str | None = None,
    trust_remote_code: bool = False,
    upcycle: UpcycleSection | None = None,
    quantization: str | None = None,
) -> BaseModel:
    """Load a frozen causal language model in evaluation mode, upcycled first if asked.

    quantization: "4bit" or "8bit" through bitsandbytes. Raises TopicLoraError, naming the model, where it cannot be
    found, read or upcycled.
    """
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    source = base_source(name, upcycle, **options)
    packed = _quantised(quantization) if quantization is not None else {}
    model, tokenizer = _read(name, source, dtype, options, **packed)
    _complete(tokenizer, model.config)
    model.requires_grad_(False)
    return BaseModel(
        model=model,
        tokenizer=tokenizer,
        source=source,
        name=name_for_others(name, source, upcycled=upcycle is not None),
        about=about_base(name, upcycle),
    )


def upcycle_to(name: str, folder: Path, settings: UpcycleSection, **options: Any) -> Upcycled:
    """Write a dense model as a Mixtral of its own dtype into a new `folder`; `options` go to from_pretrained.

    Raises TopicLoraError where the folder exists, or the model cannot be found, read or upcycled.
    """
    if folder.exists():
        raise TopicLoraError(f"{folder} exists already.", "Name another folder.")
    if file := next((parent for parent in folder.parents if parent.exists() and not parent.is_dir()), None):
        raise TopicLoraError(f"{folder} cannot be made: {file} is a file.", "Name another folder.")
    source = resolve_source(name)
    # A glance at the configuration saves reading gigabytes of weights in vain.
    check_dense(_read_config(name, source, options))
    return write_upcycled(*_read(name, source, "auto", options), folder, settings)


def load_skeleton(name: str, *, config_only: bool = False, upcycle: UpcycleSection | None = None) -> PreTrainedModel:
    """The model's structure without weights, on the meta device; with `upcycle`, that of the mixture made of it.

    config_only: download nothing, and take the configuration from this package where it has it. Raises TopicLoraError
    where the model cannot be found, or upcycled.
    """
    known = yaml.safe_load(_KNOWN_CONFIGS.read_text(encoding="utf-8"))
    if config_only and name in known:
        config = AutoConfig.for_model(**known[name])
    else:
        hint = "To count from the configuration in this package: --config-only." if name in known else ""
        hint = f"Without a download: a model on this machine, {', '.join(known)}." if config_only else hint
        config = _read_config(name, resolve_source(name), {"local_files_only": config_only}, hint)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config if upcycle is None else mixtral_config(config, upcycle))


def load_tokenizer(name: str, *, local_files_only: bool) -> PreTrainedTokenizerBase | None:
    """The model's tokenizer alone, None where it cannot be found."""
    source, options = resolve_source(name), {"local_files_only": local_files_only}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        _complete(tokenizer, AutoConfig.from_pretrained(source, **options))
    except (OSError, ValueError):
        return None
    return tokenizer


def base_source(name: str, upcycle: UpcycleSection | None = None, **options: Any) -> str:
    """The path or hub id that `load_base` reads, upcycled first if asked; `options` go to from_pretrained."""
    return resolve_source(name) if upcycle is None else _cached_upcycle(name, upcycle, options)


def _cached_upcycle(name: str, settings: UpcycleSection, options: dict[str, Any]) -> str:
    source = resolve_source(name)
    key = json.dumps([_UPCYCLE_FORMAT, _state(name, source, options), settings.model_dump()])
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    return cached_model(
        f"{Path(source).resolve().name}-{digest}", lambda folder: upcycle_to(name, folder, settings, **options)
    )


def _state(name: str, source: str, options: dict[str, Any]) -> list[Any]:
    """What changes when a model does: a folder's file names, sizes and times, or a hub id with its commit.

    The folder made of a package is named after the package's file, and made anew at any time.
    """
    if name.startswith(PACKAGE_PREFIX):
        return [Path(source).name]
    if not Path(source).is_dir():
        return [source, options["revision"], getattr(_read_config(name, source, options), "_commit_hash", None)]
    files = [(path.name, path.stat()) for path in sorted(Path(source).iterdir()) if path.is_file()]
    return [(file, stat.st_size, stat.st_mtime_ns) for file, stat in files]


def _quantised(kind: str) -> dict[str, Any]:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise TopicLoraError(
            f"model.quantization: {kind} needs the package bitsandbytes, which is not installed.",
            "Install bitsandbytes, or change the key.",
        )
    if kind == "8bit":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    # Packed weights are made where they are to stay.
    place = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
    return {"quantization_config": config, "device_map": {"": place}}


def _read(
    name: str, source: str, dtype: str, options: dict[str, Any], **of_the_model: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype if dtype == "auto" else getattr(torch, dtype), **options, **of_the_model
        )
    except TopicLoraError:
        raise
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from None
    return model.eval(), tokenizer


def _complete(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> None:
    """Give a tokenizer that names no token for the end, or for padding, the one of the model's configuration."""
    if tokenizer.eos_token is None and isinstance(end := getattr(config, "eos_token_id", None), int):
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token


def _read_config(name: str, source: str, options: dict[str, Any], hint: str = "") -> PreTrainedConfig:
    try:
        return AutoConfig.from_pretrained(source, **options)
    except (OSError, ValueError) as error:
        raise _unreadable(name, error, hint) from None


def _unreadable(name: str, error: Exception, hint: str = "") -> TopicLoraError:
    path, reason = Path(name).expanduser(), first_line(error)
    failure = f"Cannot load the model {name!r}:"
    if (path.is_absolute() or name.startswith((".", "~")) or len(path.parts) > 2) and not path.exists():
        where = "" if path.is_absolute() else f", seen from {Path.cwd()}"
        return TopicLoraError(
            f"{failure} there is no such folder{where}.", "Put it back, or set model.name to where it is now."
        )
    if "couldn't connect" in reason or "offline" in reason.lower():
        return TopicLoraError(
            f"{failure} it is no folder seen from {Path.cwd()} and not in the hub's cache on this machine, and the hub "
            "cannot be reached.",
            hint or "Download it while there is a network, or name a local folder or pypi:<package>.",
        )
    return TopicLoraError(f"{failure} {reason}", hint or "Name a hub id, a local folder, or pypi:<package>.")
