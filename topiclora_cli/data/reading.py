"""One source from its rows to the examples that are worth training on, and a count of what is not."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from itertools import islice

from topiclora_cli.data.draw import at_most
from topiclora_cli.data.examples import examples_of, loss_weight
from topiclora_cli.data.families import mixture
from topiclora_cli.data.missing import MissingValue, Names
from topiclora_cli.data.row import Row, embedded_row
from topiclora_cli.data.sources import open_source
from topiclora_cli.data.templates import Record, condition
from topiclora_cli.data.topics import known_only
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe.data import EMBEDDED, SourceSection
from topiclora_cli.runs.results.training import SourceCount


@dataclass(frozen=True)
class Reader:
    """Reads sources all in one way.

    split: instead of the sources'. known_topics: the graph's, where there is one. repeated, contaminated: say which
    examples to leave out. streaming: rows as they are needed, in an order shuffled in part, instead of tables.
    """

    seed: int
    split: str | None = None
    known_topics: Collection[str] | None = None
    repeated: Callable[[Row], bool] | None = None
    contaminated: Callable[[Row], bool] | None = None
    streaming: bool = False

    def read(
        self,
        section: SourceSection,
        number: int,
        key: str,
        count: SourceCount,
        *,
        epoch: int = 0,
        first: int | None = None,
    ) -> Iterator[Row]:
        """The examples of source `number`, or the `first` few, counting; `key` is the section's place in the recipe.

        Raises TopicLoraError for what cannot be read or does not fit the section, and, at the end, for a column that
        templates use and no row had.
        """
        names = Names()
        rows = self._kept(section, number, key, count, epoch, names)
        yield from islice(rows if section.limit_by is None else _limited(section, rows, count), first)
        names.refuse_unknown()

    def _kept(
        self, section: SourceSection, number: int, key: str, count: SourceCount, epoch: int, names: Names
    ) -> Iterator[Row]:
        kept = 0
        for row in self._examples(section, number, key, count, epoch, names):
            if isinstance(row, MissingValue):
                count.missing += 1
                count.wanting[str(row)] = count.wanting.get(str(row), 0) + 1
            elif not row.prompt.strip() or not row.completion.strip():
                count.empty += 1
            elif self.repeated is not None and self.repeated(row):
                count.duplicates += 1
            elif self.contaminated is not None and self.contaminated(row):
                count.contaminated += 1
            else:
                yield row
                kept += 1
                if kept == section.limit and section.limit_by is None:
                    return

    def _examples(
        self, section: SourceSection, number: int, key: str, count: SourceCount, epoch: int, names: Names
    ) -> Iterator[Row | MissingValue]:
        split = self.split or section.split
        if section.source == EMBEDDED:
            for example in mixture(split, section.per_family, seed=self.seed):
                count.read += 1
                embedded = embedded_row(example, source=number)
                topics = known_only(embedded.topics, section, self.known_topics)
                yield replace(embedded, topics=topics, loss_weight=loss_weight({}, section, key, names))
            return
        keep = condition(f"{key}.filter", section.filter or "true", names)
        examples = examples_of(section, key=key, number=number, known_topics=self.known_topics, names=names)
        shuffle = (self.seed, epoch) if self.streaming else None
        for record in open_source(section, key=key, split=split, shuffled_stream=shuffle):
            count.read += 1
            row = names.marked(record)
            try:
                if not keep(row):
                    count.filtered += 1
                    continue
                made = examples(row)
            except MissingValue as error:
                yield error
                continue
            except TopicLoraError as error:
                raise TopicLoraError(f"{record.place}: {error.message}", error.hint) from None
            count.empty += not made
            count.format = str(examples.taken or "")
            if section.limit_by is not None:
                kind = kind_of(row, section.limit_by, f"{key}.limit_by", names)
                made = [each if isinstance(each, MissingValue) else replace(each, kind=kind) for each in made]
            yield from made


def kind_of(record: Record, column: str, key: str, names: Names) -> str:
    """What a row has in a column that parts rows into kinds; the recipe's `key` names it."""
    if column not in record:
        names.sought(column, key)
    return str(record.get(column) or "")


def _limited(section: SourceSection, rows: Iterator[Row], count: SourceCount) -> list[Row]:
    every = list(rows)
    kept = [every[place] for place in at_most(section.limit or 0, [(row.kind, row.opening) for row in every])]
    count.surplus = len(every) - len(kept)
    return kept
