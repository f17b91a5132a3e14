"""Token ids of texts, kept in the cache by content, because large sets take minutes to tokenise.

What is hashed are the texts and all of the tokenizer's own state, so nothing stale can come back.
"""

import hashlib
from collections.abc import Sequence

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from topiclora_cli.files import replacing
from topiclora_cli.models import cache_dir

WORTH_KEEPING = 2_000  # fewer texts are tokenised faster than a person notices


def token_ids(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, add_special_tokens: bool = True
) -> list[list[int]]:
    """Token ids of each text."""
    if len(texts) < WORTH_KEEPING or not tokenizer.is_fast:
        return _tokenise(texts, tokenizer, add_special_tokens)
    state = [tokenizer.backend_tokenizer.to_str(), str(add_special_tokens), *texts]
    digest = hashlib.sha256()
    for part in state:
        digest.update(hashlib.sha256(part.encode()).digest())
    path = cache_dir() / "tokens" / f"{digest.hexdigest()[:32]}.safetensors"
    if path.is_file():
        try:
            stored = load_file(path)
            return [ids.tolist() for ids in stored["ids"].split(stored["lengths"].tolist())]
        except (SafetensorError, KeyError, RuntimeError):
            path.unlink()  # a cache is rebuilt, not repaired
    ids = _tokenise(texts, tokenizer, add_special_tokens)
    flat = torch.tensor([token for text in ids for token in text], dtype=torch.int32)
    with replacing(path) as temporary:
        save_file({"ids": flat, "lengths": torch.tensor([len(text) for text in ids])}, temporary)
    return ids


def _tokenise(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, special: bool) -> list[list[int]]:
    return tokenizer(list(texts), add_special_tokens=special)["input_ids"]
