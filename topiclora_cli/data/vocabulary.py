"""Tokens that the model has no embedding for: of a tokenizer that is not the model's, or that has had tokens added."""

from collections.abc import Iterable, Sequence

from transformers import PreTrainedTokenizerBase

from topiclora_cli.errors import TopicLoraError


def refuse_unknown_tokens(texts: Iterable[Sequence[int]], tokenizer: PreTrainedTokenizerBase, embedded: int) -> None:
    """Raises TopicLoraError where a token of the texts, or the one for padding, is not among the first `embedded`."""
    for token in (max([*text, tokenizer.pad_token_id or 0]) for text in texts):
        if token >= embedded:
            raise TopicLoraError(
                f"The tokenizer makes token {token} ({tokenizer.convert_ids_to_tokens(token)!r}), "
                f"but the model embeds {embedded} tokens only.",
                "Use the model's own tokenizer, or save the model after resize_token_embeddings.",
            )
