"""Token ids of texts, kept in the cache by content, because large sets take minutes to tokenise.

What is hashed are the texts and all of the tokenizer's own state, so nothing stale can come back.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from topiclora_cli.runs.cache import cache_dir
from topiclora_cli.runs.stored import stored_tensors

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

    def make() -> dict[str, Tensor]:
        ids = _tokenise(texts, tokenizer, add_special_tokens)
        flat = torch.tensor([token for text in ids for token in text], dtype=torch.int32)
        return {"ids": flat, "lengths": torch.tensor([len(text) for text in ids])}

    stored = stored_tensors(path, make)
    return [ids.tolist() for ids in stored["ids"].split(stored["lengths"].tolist())]


def _tokenise(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, special: bool) -> list[list[int]]:
    return tokenizer(list(texts), add_special_tokens=special)["input_ids"]
