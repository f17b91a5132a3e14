"""Text vectors kept on disk: the same texts are not read by the same model twice.

One file holds the result of one call. Vectors of single texts could be used more often, but they differ in rounding
with the texts beside them in a batch, so a run's graph would depend on what was in the cache. As it is, a hit is to the
bit what the call would have computed.

A model's name is no identity: the key holds sums over the bits of all its weights, and token ids in place of texts and
tokenizer. Where a model's state cannot be seen in full (quantised, offloaded, adapted, or with code of its own),
nothing is kept.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
import transformers
from torch import Tensor

from topiclora_cli.runs.stored import stored_tensors
from topiclora_cli.topics.encoder import LmEncoder, SentenceEncoder

WORTH_KEEPING = 32  # fewer texts are one batch, done before a person notices
_FORMAT = 1  # one more whenever an encoder makes other vectors of the same tokens
_ROW = 512  # words in a row of the sums below


class CachedEncoder:
    """`encoder` with its vectors kept in `folder`, which anyone may empty at any time."""

    def __init__(self, encoder: LmEncoder | SentenceEncoder, folder: Path) -> None:
        self.encoder, self.folder = encoder, folder
        self.id = encoder.id

    def encode(self, texts: Sequence[str]) -> Tensor:
        if len(texts) < WORTH_KEEPING or not _in_plain_sight(self.encoder.model):
            return self.encoder.encode(texts)
        # Weights may change between two calls, and their sums take a small part of the time that a batch takes.
        path = self.folder / f"{_key(self.encoder, texts)}.safetensors"
        return stored_tensors(path, lambda: {"vectors": self.encoder.encode(texts)})["vectors"]


def _key(encoder: LmEncoder | SentenceEncoder, texts: Sequence[str]) -> str:
    """Hex digest of everything that the vectors depend on."""
    model, tokenizer = encoder.model, encoder.tokenizer
    config = {key: value for key, value in model.config.to_dict().items() if key != "_name_or_path"}
    settings = {key: value for key, value in vars(encoder).items() if isinstance(value, int | float | str)}
    kernels = [getattr(model.config, f"_{part}_implementation", None) for part in ("attn", "experts")]
    padding = [getattr(tokenizer, name, None) for name in ("padding_side", "pad_token_id")]
    libraries = [torch.__version__, transformers.__version__, torch.get_float32_matmul_precision()]
    parts = [_FORMAT, libraries, type(encoder).__name__, settings, type(model).__name__, config, kernels, padding]
    digest = hashlib.sha256(json.dumps([*parts, encoder.tokens(texts)], default=str).encode())
    digest_weights(digest.update, model)
    return digest.hexdigest()[:32]


def digest_weights(update: Callable[[bytes], object], model: torch.nn.Module) -> None:
    """Hand a digest's `update` all that tells a model's weights and buffers from others of its shape."""
    for name, tensor in _tensors(model):
        update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)} {tensor.device.type}\n".encode())
        for sums in _sums(tensor):
            update(sums.cpu().numpy().tobytes())


def _tensors(model: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _sums(tensor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over rows and over columns of a tensor's bits taken as 64-bit words, and what is left over, as it is.

    They are exact, so whatever one value changes to, one sum of each kind changes with it. On the way lies one pass
    over memory, on the model's own device, where a digest of all bytes would take several times as long.
    """
    data = tensor.detach().contiguous().flatten().view(torch.uint8)
    if data.storage_offset() % 8:  # a view into something larger, which words do not line up with
        data = data.clone()
    whole = len(data) - len(data) % (8 * _ROW)
    words = data[:whole].view(torch.int64).reshape(-1, _ROW)
    return words.sum(0), words.sum(1), data[whole:]


def _in_plain_sight(model: torch.nn.Module) -> bool:
    """Whether the libraries' versions, the configuration and dense weights in memory say all about a model."""
    parts = [*model.modules(), *(tensor for _, tensor in _tensors(model))]
    return (
        getattr(model, "hf_quantizer", None) is None
        and all(type(part).__module__.partition(".")[0] in {"torch", "transformers"} for part in parts)
        and not any(tensor.is_meta for _, tensor in _tensors(model))
    )
