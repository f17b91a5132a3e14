"""An example in the tokenizer's chat template: as prompt and whole, or as token ids with its turns marked."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from topiclora_cli.data.row import ASSISTANT, Row, Turn
from topiclora_cli.errors import TopicLoraError

# What transformers looks for before it marks anything.
_MARKER = re.compile(r"\{%-?\s*generation\s*-?%\}")


def chat_texts(row: Row, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """Prompt and whole of an example in the tokenizer's chat template, without the white space that ends it.

    Raises TopicLoraError for a tokenizer without a template, and for one that refuses or loses part of the example.
    """
    if tokenizer.chat_template is None:
        raise TopicLoraError("The model's tokenizer has no chat template.", "Set data.chat_template to false.")
    turns = row.turns or (Turn("user", row.prompt), Turn(ASSISTANT, row.answer))
    messages, tools, written = list(map(_message, turns)), _tools(row), _writer(tokenizer)
    with _explained():
        whole = _whole(messages, tools, written).rstrip()
        answer = turns[-1].content
        if whole.endswith(answer.rstrip()):  # nothing closes the answer, whose own white space stays
            whole += answer[len(answer.rstrip()) :]
        # Some templates open an answer otherwise than they write a given one; its header then counts as completion.
        for opened in (True, False):
            prompt = written(messages[:-1], tools=tools, add_generation_prompt=opened)
            if whole.startswith(prompt) and len(prompt) < len(whole):
                return prompt, whole
    raise TopicLoraError(
        "The tokenizer's chat template does not begin a conversation as it begins the longer one.",
        "Set data.chat_template to false.",
    )


def answer_opened(turns: Sequence[Turn], tokenizer: PreTrainedTokenizerBase, tools: str = "") -> str:
    """A conversation in the tokenizer's chat template, up to where the assistant is to speak.

    Raises TopicLoraError for a template that refuses it.
    """
    with _explained():
        known = json.loads(tools) if tools else None
        return _writer(tokenizer)(list(map(_message, turns)), tools=known, add_generation_prompt=True)


def marked_turns(row: Row, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[float]]:
    """Token ids of a conversation up to its last marked one, and of each the weight of its turn, 0 without a mark.

    What is marked is what the chat template has between its generation markers. Raises TopicLoraError for a template
    without any, for one that refuses or loses part of the example, and for one that marks turns otherwise than once
    each where they differ in weight.
    """
    messages, tools = list(map(_message, row.turns)), _tools(row)
    if tokenizer.chat_template is None or not _MARKER.search(tokenizer.get_chat_template(tools=tools)):
        raise TopicLoraError(
            "turns: together goes by generation markers, and the tokenizer's chat template has none.",
            "Set turns: all, or put {% generation %} around the assistant's turns in the tokenizer's chat template.",
        )
    with _explained():
        _whole(messages, tools, _writer(tokenizer))
        found: Any = tokenizer.apply_chat_template(
            messages, tools=tools, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
    runs = [(mark, len(list(run))) for mark, run in groupby(found["assistant_masks"])]
    spoken = [turn.weight for turn in row.turns if turn.role == ASSISTANT]
    if len(set(spoken)) == 1:
        spoken = spoken[:1] * len(runs)
    elif len(spoken) != sum(mark for mark, _ in runs):
        raise TopicLoraError(
            "The tokenizer's chat template does not mark each of the assistant's turns once, and their weights differ.",
            "Set turns: all, or give the turns of a conversation one weight.",
        )
    if not runs[-1][0]:
        del runs[-1]
    each = iter(spoken)
    weights = [weight for mark, length in runs for weight in [next(each) if mark else 0.0] * length]
    return list(found["input_ids"][: len(weights)]), weights


def _writer(tokenizer: PreTrainedTokenizerBase) -> Callable[..., str]:
    def written(messages: Sequence[dict[str, Any]], **options: Any) -> str:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, **options))

    return written


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except TopicLoraError:
        raise
    except (TemplateError, ValueError, IndexError, NotImplementedError) as error:
        raise TopicLoraError(
            f"The tokenizer's chat template refuses an example: {error}.", "Leave such rows out by data.filter."
        ) from None


def _whole(messages: Sequence[dict[str, Any]], tools: list[Any] | None, written: Callable[..., str]) -> str:
    """A conversation as text; raises TopicLoraError where the template takes no notice of tools or calls of them."""
    whole = written(messages, tools=tools)
    without = [{key: value for key, value in message.items() if key != "tool_calls"} for message in messages]
    lost = {"calls of tools": without != list(messages) and written(without, tools=tools) == whole}
    lost |= {"tools": bool(tools) and written(messages) == whole}
    for what in (name for name, is_lost in lost.items() if is_lost):
        raise TopicLoraError(
            f"The tokenizer's chat template writes no {what}, and an example has some: {_opening(messages)!r}.",
            "Use a model whose template does, set data.chat_template to false, or leave such rows out by filter.",
        )
    return whole


def _opening(messages: Sequence[dict[str, Any]]) -> str:
    """What an example may be found by."""
    return next((str(message["content"])[:60] for message in messages if message["role"] == "user"), "")


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


def _tools(row: Row) -> list[Any] | None:
    return json.loads(row.tools) if row.tools else None
