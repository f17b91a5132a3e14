"""What somebody asks, put as the run was trained on it: for the model to answer, and for the topic graph to read."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from topiclora_cli.data.calls import tools_in
from topiclora_cli.data.chat import answer_opened
from topiclora_cli.data.conversations import ChatColumn, conversations
from topiclora_cli.data.encode import encode_prompt
from topiclora_cli.data.examples import asked_by
from topiclora_cli.data.message import fill_in_message
from topiclora_cli.data.missing import MissingValue
from topiclora_cli.data.row import ASSISTANT, Turn
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import Recipe
from topiclora_cli.recipe.data import EMBEDDED


def of_conversations(recipe: Recipe, *, has_template: bool) -> bool:
    """Whether a run was trained on conversations, or may have been: some files say so by their columns alone."""
    said = [source for source in recipe.data.all_sources if source.prompt is None and source.source != EMBEDDED]
    certain = any(source.messages or source.format in ("sharegpt", "openai", "alpaca") for source in said)
    possible = any(source.format == "auto" for source in said)
    return bool(certain or recipe.data.chat_template or (possible and has_template))


def filled_in(recipe: Recipe, text: str) -> str:
    """A message in the template that the run's prompts were made by, where one source has one."""
    sources = recipe.data.all_sources
    return fill_in_message(sources[0], text) if len(sources) == 1 else text


def prompt_ids(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], tools: str = "") -> list[int]:
    """Token ids of a conversation up to where the assistant is to speak; of a run that was trained on single prompts,
    of its last message by itself.

    Raises TopicLoraError for a chat template that refuses the conversation.
    """
    if not of_conversations(recipe, has_template=tokenizer.chat_template is not None):
        return encode_prompt(turns[-1].text.rstrip(), tokenizer, chat=False)
    if recipe.data.chat_template is False or tokenizer.chat_template is None:
        return encode_prompt(asked_by(turns, tools), tokenizer, chat=False)
    return encode_prompt(answer_opened(turns, tokenizer, tools), tokenizer, chat=True)


def turns_of(messages: Sequence[Any]) -> list[Turn]:
    """Messages of OpenAI's API as turns, read as those of training data; raises TopicLoraError for what is no message
    or has no text."""
    answered = [*messages, {"role": ASSISTANT, "content": "."}]
    (turns,) = conversations(ChatColumn("A request", "messages"), answered, every=False)
    if isinstance(turns, MissingValue):
        raise TopicLoraError("A request: the column 'messages' has a message without text.", "Give it a content.")
    return turns[:-1]


def tools_asked(tools: Any) -> str:
    """The tools of a request as those of training data, "" for none; raises TopicLoraError for what is no tool."""
    try:
        return tools_in(tools or "")
    except ValueError as error:
        raise TopicLoraError(f"A request: its tools cannot be read: {error}.", "Leave them out.") from None


def chat_text(recipe: Recipe, messages: Sequence[Any], tools: Any, *, has_template: bool) -> str:
    """What the text encoder reads of a chat: the whole as the prompts of training, or the user's last message by
    itself where the run was trained on single prompts. "" where no user speaks.

    Raises TopicLoraError as `turns_of` and `tools_asked` do.
    """
    turns = turns_of(messages)
    asked = [turn for turn in turns if turn.role == "user"]
    if not asked:
        return ""
    if of_conversations(recipe, has_template=has_template):
        return asked_by(turns, tools_asked(tools))
    return filled_in(recipe, asked[-1].text).rstrip()


def chat_ids(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, messages: Sequence[Any], tools: Any) -> list[int]:
    """Token ids of a chat as the run was trained on such; raises TopicLoraError as `prompt_ids`, `turns_of` and
    `tools_asked` do, and where nobody asks."""
    turns = turns_of(messages)
    if not turns:
        raise TopicLoraError("A request: the column 'messages' is empty.", "Give it a message.")
    if not of_conversations(recipe, has_template=tokenizer.chat_template is not None):
        turns = [replace(turns[-1], content=filled_in(recipe, turns[-1].content))]
    return prompt_ids(recipe, tokenizer, turns, tools_asked(tools))
