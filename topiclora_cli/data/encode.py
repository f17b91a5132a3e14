"""From examples as text to token ids, with the prompt told apart from its completion."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from transformers import PreTrainedTokenizerBase

from topiclora_cli.data.chat import chat_texts, marked_turns
from topiclora_cli.data.row import Row
from topiclora_cli.data.tokens import token_ids
from topiclora_cli.errors import TopicLoraError


@dataclass(frozen=True)
class Encoded:
    """One training example as token ids; the first `prompt_length` of `input_ids` are the prompt.

    turn_weights: of a conversation whose turns are trained on together, of each token the weight of its turn in the
    loss, 0 where it is none of the assistant's.
    """

    row: Row
    input_ids: list[int]
    prompt_length: int
    turn_weights: list[float] | None = None

    def token_weights(self, *, with_prompt: bool = False) -> list[float] | None:
        """The weight of each token in the language-modelling loss; None where the completion's are all 1, others 0.

        with_prompt: of an example that is trained on as a whole, None where all tokens weigh 1.
        """
        weight = self.row.loss_weight
        if with_prompt:
            return None if weight == 1 else [weight] * len(self.input_ids)
        if self.turn_weights is not None:
            return [weight * turn for turn in self.turn_weights]
        length = self.prompt_length
        return None if weight == 1 else [0.0] * length + [weight] * (len(self.input_ids) - length)


def encode_rows(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    chat_template: bool | None = None,
) -> list[Encoded]:
    """Tokenise rows as `encode_every` does, without what does not fit; raises TopicLoraError when nothing fits."""
    return fitting(encode_every(rows, tokenizer, chat_template=chat_template), max_length)


def fitting(examples: Sequence[Encoded], max_length: int) -> list[Encoded]:
    """Those of at most `max_length` tokens; raises TopicLoraError where there is none."""
    encoded = [example for example in examples if len(example.input_ids) <= max_length]
    if not encoded:
        shortest = min((len(example.input_ids) for example in examples), default=0)
        raise TopicLoraError(
            f"None of the {len(examples)} examples fits data.max_length ({max_length} tokens); the shortest has "
            f"{shortest}.",
            "Raise data.max_length.",
        )
    return encoded


def encode_every(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, *, chat_template: bool | None = None
) -> list[Encoded]:
    """Tokenise rows of any length, ending each with the end-of-sequence token.

    Prompt and completion are cut from one encoding of the whole text, as lm-evaluation-harness scores them; a text that
    writes the token it would begin with gets no second one, as there. Left out is an example whose completion has no
    token. chat_template: whether texts go through the tokenizer's chat template; None, where rows are conversations.
    Raises TopicLoraError where a template is wanted of a tokenizer that has none, where turns are to be told by the
    marks of one that has none, and for a tokenizer without an end-of-sequence token.
    """
    end = tokenizer.eos_token_id
    if end is None:
        raise TopicLoraError(
            "The model's tokenizer has no end-of-sequence token, with which every completion ends.",
            "Name one in the model's tokenizer_config.json: eos_token.",
        )
    if chat_template is False and any(row.together for row in rows):
        raise TopicLoraError(
            "turns: together goes by the chat template's markers, and data.chat_template is false.", "Set turns: all."
        )
    apart = [row for row in rows if not row.together]
    chats = [bool(row.turns) if chat_template is None else chat_template for row in apart]
    in_parts = _in_two_parts(apart, chats, tokenizer)
    every = (_together(row, tokenizer) if row.together else next(in_parts) for row in rows)
    ended = (_ended(example, end) for example in every)
    return [example for example in ended if example.prompt_length < len(example.input_ids)]


def _in_two_parts(rows: Sequence[Row], chats: Sequence[bool], tokenizer: PreTrainedTokenizerBase) -> Iterator[Encoded]:
    """Rows cut into prompt and completion, those that are `chats` in the chat template, in their order."""
    texts = [
        chat_texts(row, tokenizer) if chat else (row.prompt, row.prompt + row.completion)
        for row, chat in zip(rows, chats, strict=True)
    ]
    # A chat template, or the text itself, has written the special tokens already.
    begin = tokenizer.bos_token
    bare = [chat or bool(begin and whole.startswith(begin)) for (_, whole), chat in zip(texts, chats, strict=True)]
    prompts = _token_ids([prompt for prompt, _ in texts], bare, tokenizer)
    wholes = _token_ids([whole for _, whole in texts], bare, tokenizer)
    for row, prompt, whole in zip(rows, prompts, wholes, strict=True):
        yield Encoded(row, whole, len(prompt))


def _together(row: Row, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    ids, weights = marked_turns(row, tokenizer)
    opening = next((place for place, weight in enumerate(weights) if weight > 0), len(ids))
    return Encoded(row, ids, opening, weights)


def _ended(example: Encoded, end: int) -> Encoded:
    """The example with the end-of-sequence token behind it, which belongs to the last turn."""
    if example.input_ids[-1:] == [end]:
        return example
    weights = example.turn_weights
    return replace(
        example,
        input_ids=[*example.input_ids, end],
        turn_weights=weights if weights is None else [*weights, *(weights[-1:] or [0.0])],
    )


def encode_prompt(text: str, tokenizer: PreTrainedTokenizerBase, *, chat: bool) -> list[int]:
    """Token ids of what an answer is to follow, as examples begin; chat: a chat template has written the text."""
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
