"""One source from its rows to the examples that are worth training on, and a count of what is not."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from topiclora_cli.recipe.data import EMBEDDED, SourceSection
from topiclora_cli.tasks import mixture
from topiclora_cli.training.data.examples import examples_of
from topiclora_cli.training.data.row import Row, embedded_row
from topiclora_cli.training.data.sources import open_source
from topiclora_cli.training.data.templates import condition


@dataclass
class SourceCount:
    """Of one source: rows read and filtered out; examples left out for what reason; examples kept out to measure on."""

    label: str
    weight: float | None = None
    read: int = 0
    filtered: int = 0
    empty: int = 0
    duplicates: int = 0
    contaminated: int = 0
    held_out: int = 0


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
        self, section: SourceSection, number: int, key: str, count: SourceCount, *, epoch: int = 0
    ) -> Iterator[Row]:
        """The examples of source `number`, counting as it goes; `key` is the section's place in the recipe.

        Raises TopicLoraError for what cannot be read or does not fit the section.
        """
        kept = 0
        for row in self._examples(section, number, key, count, epoch):
            if not row.prompt.strip() or not row.completion.strip():
                count.empty += 1
            elif self.repeated is not None and self.repeated(row):
                count.duplicates += 1
            elif self.contaminated is not None and self.contaminated(row):
                count.contaminated += 1
            else:
                yield row
                kept += 1
                if kept == section.limit:
                    return

    def _examples(self, section: SourceSection, number: int, key: str, count: SourceCount, epoch: int) -> Iterator[Row]:
        split = self.split or section.split
        if section.source == EMBEDDED:
            for example in mixture(split, section.per_family, seed=self.seed):
                count.read += 1
                yield embedded_row(example, source=number)
            return
        keep = condition(f"{key}.filter", section.filter) if section.filter is not None else None
        examples = examples_of(section, key=key, number=number, known_topics=self.known_topics)
        shuffle = (self.seed, epoch) if self.streaming else None
        for record in open_source(section, key=key, split=split, shuffled_stream=shuffle):
            count.read += 1
            if keep is not None and not keep(record):
                count.filtered += 1
                continue
            made = examples(record)
            count.empty += not made
            yield from made
