"""From examples as text to token ids, with the prompt told apart from its completion."""

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.training.data.row import Row
from topiclora_cli.training.data.tokens import token_ids


@dataclass(frozen=True)
class Encoded:
    """One training example as token ids; the first `prompt_length` of `input_ids` are the prompt."""

    row: Row
    input_ids: list[int]
    prompt_length: int


def encode_rows(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    chat_template: bool | None = None,
) -> list[Encoded]:
    """Tokenise rows as `encode_fitting` does; raises TopicLoraError when nothing fits."""
    encoded = encode_fitting(rows, tokenizer, max_length=max_length, chat_template=chat_template)
    if not encoded:
        raise TopicLoraError(
            f"None of the {len(rows)} examples fits data.max_length ({max_length} tokens).", "Raise data.max_length."
        )
    return encoded


def encode_fitting(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    chat_template: bool | None = None,
) -> list[Encoded]:
    """Tokenise rows, ending each with the end-of-sequence token and leaving out those longer than `max_length`.

    Prompt and completion are cut from one encoding of the whole text, as lm-evaluation-harness scores them.
    chat_template: whether texts go through the tokenizer's chat template; None, where rows are conversations. Raises
    TopicLoraError where a template is wanted of a tokenizer that has none.
    """
    chats = [bool(row.turns) if chat_template is None else chat_template for row in rows]
    texts = [
        _chat_texts(row, tokenizer) if chat else (row.prompt, row.prompt + row.completion)
        for row, chat in zip(rows, chats, strict=True)
    ]
    prompts = _token_ids([prompt for prompt, _ in texts], chats, tokenizer)
    wholes = _token_ids([whole for _, whole in texts], chats, tokenizer)
    encoded = []
    for row, prompt, whole in zip(rows, prompts, wholes, strict=True):
        if whole[-1] != tokenizer.eos_token_id:
            whole = [*whole, tokenizer.eos_token_id]
        if len(prompt) < len(whole) <= max_length:
            encoded.append(Encoded(row, whole, len(prompt)))
    return encoded


def _token_ids(texts: Sequence[str], chats: Sequence[bool], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Token ids of texts; a chat template has written the special tokens already."""
    ids: list[list[int]] = [[] for _ in texts]
    for kind in set(chats):
        places = [place for place, chat in enumerate(chats) if chat == kind]
        found_ids = token_ids([texts[place] for place in places], tokenizer, add_special_tokens=not kind)
        for place, found in zip(places, found_ids, strict=True):
            ids[place] = found
    return ids


def _chat_texts(row: Row, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """Prompt and whole of an example in the tokenizer's chat template, without white space after the last turn."""
    if tokenizer.chat_template is None:
        raise TopicLoraError("The model's tokenizer has no chat template.", "Set data.chat_template to false.")
    turns = row.turns or (("user", row.prompt), ("assistant", row.completion.strip()))
    messages = [{"role": role, "content": content} for role, content in turns]
    try:
        whole = str(tokenizer.apply_chat_template(messages, tokenize=False)).rstrip()
        # Some templates open an answer otherwise than they write a given one; its header then counts as completion.
        for opened in (True, False):
            prompt = str(tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=opened))
            if whole.startswith(prompt) and len(prompt) < len(whole):
                return prompt, whole
    except (TemplateError, ValueError, IndexError) as error:
        raise TopicLoraError(
            f"The tokenizer's chat template refuses an example: {error}.", "Leave such rows out by data.filter."
        ) from None
    raise TopicLoraError(
        "The tokenizer's chat template does not begin a conversation as it begins the longer one.",
        "Set data.chat_template to false.",
    )
