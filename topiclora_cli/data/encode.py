"""From examples as text to token ids, with the prompt told apart from its completion."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from topiclora_cli.data.row import ASSISTANT, Row, Turn
from topiclora_cli.data.tokens import token_ids
from topiclora_cli.errors import TopicLoraError


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

    Prompt and completion are cut from one encoding of the whole text, as lm-evaluation-harness scores them; a text that
    writes the token it would begin with gets no second one, as there. chat_template: whether texts go through the
    tokenizer's chat template; None, where rows are conversations. Raises TopicLoraError where a template is wanted of a
    tokenizer that has none, and for one without an end-of-sequence token.
    """
    end = tokenizer.eos_token_id
    if end is None:
        raise TopicLoraError(
            "The model's tokenizer has no end-of-sequence token, with which every completion ends.",
            "Name one in the model's tokenizer_config.json: eos_token.",
        )
    chats = [bool(row.turns) if chat_template is None else chat_template for row in rows]
    texts = [
        _chat_texts(row, tokenizer) if chat else (row.prompt, row.prompt + row.completion)
        for row, chat in zip(rows, chats, strict=True)
    ]
    # A chat template, or the text itself, has written the special tokens already.
    begin = tokenizer.bos_token
    bare = [chat or bool(begin and whole.startswith(begin)) for (_, whole), chat in zip(texts, chats, strict=True)]
    prompts = _token_ids([prompt for prompt, _ in texts], bare, tokenizer)
    wholes = _token_ids([whole for _, whole in texts], bare, tokenizer)
    encoded = []
    for row, prompt, whole in zip(rows, prompts, wholes, strict=True):
        if whole[-1:] != [end]:
            whole = [*whole, end]
        if len(prompt) < len(whole) <= max_length:
            encoded.append(Encoded(row, whole, len(prompt)))
    return encoded


def encode_prompt(prompt: str | Sequence[Turn], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of what an answer is to follow, as examples begin: a text as it is, turns by the chat template.

    Raises TopicLoraError where the template refuses the turns.
    """
    if isinstance(prompt, str):
        text, chat = prompt.rstrip(), False
    else:
        try:
            messages = list(map(_message, prompt))
            text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        except (TemplateError, ValueError, IndexError) as error:
            raise TopicLoraError(f"The tokenizer's chat template refuses this conversation: {error}.") from None
        chat = True
    begin = tokenizer.bos_token
    return _token_ids([text], [chat or bool(begin and text.startswith(begin))], tokenizer)[0]


def _token_ids(texts: Sequence[str], bare: Sequence[bool], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Token ids of texts that go on: after them come no special tokens, and none before those that are `bare`."""
    ids: list[list[int]] = [[] for _ in texts]
    after = _appended(tokenizer)
    for kind in set(bare):
        places = [place for place, without in enumerate(bare) if without == kind]
        found_ids = token_ids([texts[place] for place in places], tokenizer, add_special_tokens=not kind)
        for place, found in zip(places, found_ids, strict=True):
            ids[place] = found if kind else found[: len(found) - after]
    return ids


def _appended(tokenizer: PreTrainedTokenizerBase) -> int:
    """How many special tokens a tokenizer puts after a text: T5's and some of Llama's kin end every one."""
    special = set(tokenizer.all_special_ids)
    return len(list(takewhile(special.__contains__, reversed(tokenizer("a")["input_ids"]))))


def _chat_texts(row: Row, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """Prompt and whole of an example in the tokenizer's chat template, without the white space that ends it."""
    if tokenizer.chat_template is None:
        raise TopicLoraError("The model's tokenizer has no chat template.", "Set data.chat_template to false.")
    turns = row.turns or (Turn("user", row.prompt), Turn(ASSISTANT, row.answer))
    messages = list(map(_message, turns))

    def written(messages: Sequence[dict[str, Any]], **options: Any) -> str:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, **options))

    tools = json.loads(row.tools) if row.tools else None
    try:
        whole = written(messages, tools=tools).rstrip()
        if tools or any(turn.calls for turn in turns):
            _refuse_unwritten(written(messages, tools=tools), messages, tools, written)
        answer = turns[-1].content
        if whole.endswith(answer.rstrip()):  # nothing closes the answer, whose own white space stays
            whole += answer[len(answer.rstrip()) :]
        # Some templates open an answer otherwise than they write a given one; its header then counts as completion.
        for opened in (True, False):
            prompt = written(messages[:-1], tools=tools, add_generation_prompt=opened)
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


def _message(turn: Turn) -> dict[str, Any]:
    """A turn as chat templates read it."""
    message: dict[str, Any] = {"role": turn.role, "content": turn.content}
    message |= {key: value for key in ("name", "tool_call_id") if (value := getattr(turn, key))}
    if turn.calls:
        message["tool_calls"] = [_tool_call(json.loads(call)) for call in turn.calls]
    return message


def _tool_call(call: dict[str, Any]) -> dict[str, Any]:
    identity = {"id": call.pop("id")} if "id" in call else {}
    return {**identity, "type": "function", "function": call}


def _refuse_unwritten(
    whole: str, messages: Sequence[dict[str, Any]], tools: Sequence[Any] | None, written: Callable[..., str]
) -> None:
    """Raises TopicLoraError where a chat template takes no notice of an example's tools, or of the calls of them."""
    without = [{key: value for key, value in message.items() if key != "tool_calls"} for message in messages]
    lost = {"calls of tools": without != messages and written(without, tools=tools) == whole}
    lost |= {"tools": bool(tools) and written(messages) == whole}
    for what in (name for name, is_lost in lost.items() if is_lost):
        raise TopicLoraError(
            f"The tokenizer's chat template writes no {what}, and an example has some.",
            "Use a model whose template does, set data.chat_template to false, or leave such rows out by filter.",
        )
