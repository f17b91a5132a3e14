"""The recipe's section on training text: one source, or several mixed by weight."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from topiclora_cli.recipe.section import Section
from topiclora_cli.recipe.sources import fill_in_source, with_own_sources

EMBEDDED = "quickstart"


class TopicsFile(Section):
    """Topics looked up in a file: `key`, a template over a row's columns, names the line.

    JSONL lines hold `key` and a list `topics`; a CSV file has columns of these names, topics separated by `;`.
    """

    file: str
    key: str


class SourceSection(Section):
    """Where examples come from, and how a row becomes one.

    source: a hub id, a folder, a .jsonl, .json, .csv or .parquet file or the https address of one, also packed (.gz,
    .zst, .bz2), a pattern of such files (`chats/*.jsonl`, read in the order of their names), `quickstart` (the
    embedded task families), or the name of a ready definition (recipe/sources.yaml, data.sources_file), whose keys
    those given here replace; `name` uses a definition with another source.
    prompt, completion: Jinja templates over a row's columns, with filters `options` and `letter` for multiple choice.
    Both are trained on to the letter, with a space between them where there is no white space. A column whose name
    Jinja cannot read is `row["its name"]`. Columns of a CSV file are text (`n | int`, `n | float`); JSON values are
    written as the file has them; parquet files and hubs have types. Rows that lack a value which a template prints (an
    empty cell, a null, an absent key) are left out and counted; to a filter or an `if`, it is false and equal to ''.
    messages: instead, a column of chat messages with `role` and `content`, or `from` and `value`, whose text alone is
    read; turns: `last` takes the last of the assistant's turns as the completion, `all` makes an example of every one,
    with all before it as the prompt.
    topics: a column of topic tags, a list that holds for every row, or a file. unknown_topics: whether a tag that the
    graph does not know is an error or left out.
    filter: a Jinja expression; rows where it is false are left out. limit: stop after so many examples. limit_by: a
    column, of each of whose values there are at most so many; which ones, a hash of their prompts decides.
    weight: the probability of drawing from this source, relative to the others'.
    """

    name: str | None = None
    source: str | None = None
    config: str | None = None
    split: str = "train"
    prompt: str | None = None
    completion: str | None = None
    messages: str | None = None
    turns: Literal["last", "all"] = "last"
    topics: str | list[str] | TopicsFile | None = None
    unknown_topics: Literal["error", "drop"] = "error"
    filter: str | None = None
    limit: int | None = Field(default=None, ge=1)
    limit_by: str | None = None
    weight: float | None = Field(default=None, gt=0)
    per_family: int = Field(default=160, ge=1)

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
        columns = {"filter": self.filter, "messages": self.messages, "limit_by": self.limit_by}
        if self.source == EMBEDDED and any(columns.values()):
            raise ValueError(f"{EMBEDDED!r} has no columns for {next(key for key in columns if columns[key])}")
        if self.limit_by and not self.limit:
            raise ValueError("limit_by says of what limit is counted; give a limit, too")
        if self.source != EMBEDDED and not self.messages and not (self.prompt and self.completion):
            raise ValueError(
                f"a data source other than {EMBEDDED!r} needs the templates data.prompt and data.completion, or "
                "data.messages, a column of chat messages"
            )

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
    example, in an order shuffled once. `stopping_strategy` says when to stop: at the first source that runs out, so
    that nothing repeats, or when all have, the shorter ones starting over. Beside `sources`, `limit` is the mixture's.

    sources_file: a YAML file of definitions of one's own, names to keys of a source, which `source` and `name` find as
    they do the ready ones. A run keeps the keys, not the file.
    dedup: leave out examples seen before in any source, compared to the letter (exact), or without regard to case and
    white space (normalised).
    decontaminate: leave out examples that share `ngram` words in a row with a question of eval.tasks.
    validation: how many prompts, or below 1 about what share, to keep out of training with their completions and
    measure on; a prompt's hash (a conversation's by its opening) decides, so that others may come and go.
    chat_template: whether prompts and completions go through the tokenizer's chat template; unset, only messages do.
    streaming: read examples as they are needed, for sets larger than memory; then train.max_steps says when to stop,
    sources start over when they run out, several need weights, and rows are shuffled in part only.
    train_on_prompt: take the language-modelling loss over the prompt, too, and not over the completion alone.
    """

    sources: list[SourceSection] = []
    sources_file: str | None = None
    stopping_strategy: Literal["first_exhausted", "all_exhausted"] = "first_exhausted"
    dedup: Literal["none", "exact", "normalised"] = "none"
    decontaminate: bool = False
    ngram: int = Field(default=13, ge=2)
    validation: int | float | None = Field(default=None, gt=0)
    chat_template: bool | None = None
    max_length: int = Field(default=512, ge=8)
    train_on_prompt: bool = False
    streaming: bool = False

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
