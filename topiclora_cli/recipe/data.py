"""The recipe's section on training text: one source, or several mixed by weight."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from topiclora_cli.recipe.section import Section
from topiclora_cli.recipe.sources import fill_in_source, with_own_sources

EMBEDDED = "quickstart"
_FORMATS_WITH = {"messages": ("openai", "sharegpt"), "prompt": ("completion",)}


class TopicsFile(Section):
    """Topics looked up in a file.

    JSONL lines hold `key` and a list `topics`; a CSV file has columns of these names, topics separated by `;`.
    """

    file: str
    """Path of the file, JSONL or CSV."""
    key: str
    """A template over a row's columns, which names the line of the file."""


class WeightColumn(Section):
    """A number of every row's own."""

    column: str
    """A column of numbers from 0."""


class SourceSection(Section):
    """Where examples come from, and how a row becomes one.

    Templates are Jinja's, over a row's columns, with filters `options` and `letter` for multiple choice. A column whose
    name Jinja cannot read is `row["its name"]`. Columns of a CSV file are text (`n | int`, `n | float`); values of JSON
    are written as the file has them; parquet files and hubs have types. Rows that lack a value which a template prints
    (an empty cell, a null, an absent key) are left out and counted; to a filter or an `if`, it is false and ''.
    """

    name: str | None = None
    """A ready definition (recipe/sources.yaml, or sources_file), whose keys those given here replace; with another
    source."""
    source: str | None = None
    """A hub id, a folder, a .jsonl, .json, .csv or .parquet file or the https address of one, also packed (.gz, .zst
    or .bz2), a pattern of files (chats/*.jsonl, read in the order of their names), `quickstart` (the embedded task
    families), or the name of a ready definition."""
    config: str | None = None
    """The hub's configuration of the set; unset, its default."""
    split: str = "train"
    """The split to train on."""
    prompt: str | None = None
    """Template of the prompt. It is trained on to the letter, with a space before the completion where there is no
    white space."""
    completion: str | None = None
    """Template of the completion, which the loss is taken over."""
    messages: str | None = None
    """In place of templates, a column of chat messages with `role` and `content`, or `from` and `value`, whose text
    alone is read."""
    format: Literal["auto", "sharegpt", "openai", "alpaca", "completion"] = "auto"
    """How rows are written where neither templates nor `messages` say: `sharegpt` (conversations of from and value),
    `openai` (messages of role and content), `alpaca` (instruction, input, output), `completion` (prompt, completion);
    `auto` goes by the columns of the first row. Read, too, are tools and their calls, system prompts and history."""
    turns: Literal["last", "all", "together"] | None = None
    """Of chats, `last` takes the last of the assistant's turns as the completion; `all` makes an example of every one,
    with all before it as the prompt; `together` takes the loss over all of them in one example, by the generation
    markers of the chat template. Unset, `last` of `messages`, and `all` of chats found by `format`."""
    topics: str | list[str] | TopicsFile | None = None
    """A column of topic tags, a list that holds for every row, or a file; unset, prompts are read for them."""
    unknown_topics: Literal["error", "drop"] = "error"
    """Whether a tag that the graph does not know is an error, or left out (drop)."""
    filter: str | None = None
    """Jinja expression; rows where it is false are left out."""
    limit: int | None = Field(default=None, ge=1)
    """Stop after so many examples; beside `sources`, the mixture's."""
    limit_by: str | None = None
    """A column, of each of whose values there are at most `limit` examples; which ones, a hash of their prompts
    decides."""
    weight: float | None = Field(default=None, gt=0)
    """The probability of drawing from this source, relative to the others'."""
    loss_weight: Annotated[float, Field(ge=0)] | WeightColumn = 1.0
    """How much the tokens of its examples weigh in the language-modelling loss, a weighted mean over a step's tokens: a
    number, or `column`, which has one for every row. OpenAI's `weight` of a message is read, too, and multiplied."""
    per_family: int = Field(default=160, ge=1)
    """Examples of each of the embedded task families, for the source `quickstart`."""

    @model_validator(mode="before")
    @classmethod
    def _defined(cls, values: Any) -> Any:
        return fill_in_source(values) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check()
        return self

    def _check(self) -> None:
        if self.source is None:
            raise ValueError("a source is missing: set source, or name one of the ready definitions")
        if self.messages and (self.prompt or self.completion):
            raise ValueError("messages and prompt with completion exclude one another; set one of them to null")
        if bool(self.prompt) != bool(self.completion):
            raise ValueError("prompt and completion belong together; give both, or neither and a format")
        given = "messages" if self.messages else "prompt" if self.prompt else ""
        if given and self.format not in ("auto", *_FORMATS_WITH[given]):
            raise ValueError(f"format: {self.format} reads columns of its own, not those of {given}; leave one out")
        columns = {"filter": self.filter, "messages": self.messages, "limit_by": self.limit_by}
        columns |= {"format": None if self.format == "auto" else self.format}
        columns |= {"loss_weight.column": getattr(self.loss_weight, "column", None)}
        if self.source == EMBEDDED and any(columns.values()):
            raise ValueError(f"{EMBEDDED!r} has no columns for {next(key for key in columns if columns[key])}")
        if self.limit_by and not self.limit:
            raise ValueError("limit_by says of what limit is counted; give a limit, too")

    @property
    def reads_chats(self) -> bool:
        """Whether its rows may be conversations."""
        return self.source != EMBEDDED and self.prompt is None

    @property
    def label(self) -> str:
        """What tables and messages call it: a path below this folder by what it is from here."""
        here, source = Path.cwd(), str(self.source)
        below = Path(source).is_absolute() and Path(source).is_relative_to(here)
        return self.name or (str(Path(source).relative_to(here)) if below else source)


class DataSection(SourceSection):
    """Training text: one source, whose keys stand here, or a list of `sources`, and what is done with their examples.

    With several sources and no weights every example is used once, in random order. With weights, examples are drawn
    as datasets.interleave_datasets does: each draw picks a source with its probability and takes that source's next
    example, in an order shuffled once.
    """

    sources: list[SourceSection] = []
    """Several sources, each with the keys of one, in place of the source whose keys stand here."""
    sources_file: str | None = None
    """A YAML file of definitions of one's own, names to keys of a source, found by `source` and `name` as ready ones
    are; a run keeps the keys, not the file."""
    stopping_strategy: Literal["first_exhausted", "all_exhausted"] = "first_exhausted"
    """When a weighted mixture stops: at the first source that runs out, so that nothing repeats, or when all have, the
    shorter ones starting over."""
    dedup: Literal["none", "exact", "normalised"] = "none"
    """Leave out examples seen before in any source, compared to the letter (exact), or without regard to case and white
    space (normalised)."""
    decontaminate: bool = False
    """Leave out examples that share `ngram` words in a row with a question of eval.tasks."""
    ngram: int = Field(default=13, ge=2)
    """Words in a row that make an example a question's, for `decontaminate`."""
    validation: int | float | None = Field(default=None, gt=0)
    """How many prompts, or below 1 about what share, to keep out of training with their completions and measure on; a
    prompt's hash (a conversation's by its opening) decides, so that others may come and go."""
    fraction: float = Field(default=1.0, gt=0, le=1)
    """The share of each source's examples to train on, after those of `validation`; a smaller one is part of a larger
    one, and each has of every kind of topics its part."""
    chat_template: bool | None = None
    """Put prompts and completions through the tokenizer's chat template; unset, only messages go through it."""
    max_length: int = Field(default=512, ge=8)
    """Longest example in tokens; longer ones are left out."""
    train_on_prompt: bool = False
    """Take the language-modelling loss over the prompt, too, and not over the completion alone."""
    streaming: bool = False
    """Read examples as they are needed, for sets larger than memory; then train.max_steps says when to stop, sources
    start over when they run out, several need weights, and rows are shuffled in part only."""

    @model_validator(mode="before")
    @classmethod
    def _embedded_by_default(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        named = any(values.get(key) for key in ("name", "source", "sources"))
        return with_own_sources(values if named else {**values, "source": EMBEDDED})

    def _check(self) -> None:
        if not self.sources:
            super()._check()
        else:
            if beside := _source_keys(self):
                raise ValueError(f"{beside[0]} belongs to each of data.sources; beside them it means nothing")
            if len({source.weight is None for source in self.sources}) > 1:
                raise ValueError("give every source a weight, or none")
        if self.streaming:
            self._check_streaming()
        if self.validation is not None and self.validation >= 1 and self.validation != int(self.validation):
            raise ValueError("validation is a share below 1 or a whole number of prompts")

    def _check_streaming(self) -> None:
        if self.dedup != "none":
            raise ValueError("a stream is not searched for duplicates; leave out dedup or streaming")
        if self.validation is not None and self.validation >= 1:
            raise ValueError("of a stream, validation keeps a share below 1, not a number of prompts")
        if any(source.limit_by for source in self.all_sources):
            raise ValueError("of a stream, limit_by cannot choose; leave it out")
        if self.fraction < 1:
            raise ValueError("a stream has no size to take a fraction of; leave it out")
        if len(self.sources) > 1 and self.sources[0].weight is None:
            raise ValueError("a stream of several sources needs their weights")
        if self.sources and self.limit:
            raise ValueError("a stream ends with train.max_steps; give limit to a source")

    @property
    def all_sources(self) -> Sequence[SourceSection]:
        """The sources, also where the section itself is the only one."""
        return self.sources or [self]


def _source_keys(data: DataSection) -> list[str]:
    """Keys of a single source that are set, but for the limit, which a mixture has, too."""
    fields = SourceSection.model_fields
    return [key for key in fields if key != "limit" and getattr(data, key) != fields[key].default]
