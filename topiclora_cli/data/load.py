"""Reads all sources of a recipe, cleans, splits and mixes their examples, and counts what became of them."""

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass

from topiclora_cli.data.clean import Repetitions
from topiclora_cli.data.draw import share_of
from topiclora_cli.data.missing import list_missing
from topiclora_cli.data.mixing import mix
from topiclora_cli.data.reading import Reader
from topiclora_cli.data.row import Row
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe.data import DataSection, SourceSection, TopicsFile
from topiclora_cli.runs.results.training import SourceCount

FIRST = 2_048  # examples that stand for a stream wherever a handful must do


@dataclass(frozen=True)
class Data:
    """The examples of a recipe: to train on, in their order, and to measure on; and what became of each source."""

    train: list[Row]
    validation: list[Row]
    counts: list[SourceCount]


def load_rows(data: DataSection, *, seed: int, split: str | None = None) -> list[Row]:
    """The training examples of a recipe, as `load_data` reads them."""
    return load_data(data, seed=seed, split=split).train


def load_data(
    data: DataSection,
    *,
    seed: int,
    split: str | None = None,
    known_topics: Collection[str] | None = None,
    contaminated: Callable[[Row], bool] | None = None,
) -> Data:
    """Read, clean, split and mix the examples a recipe names; of a stream, the first FIRST of each source.

    `split` overrides the sources'; `known_topics` are the graph's, where there is one; `contaminated` says which
    examples are questions of the evaluation. Raises TopicLoraError for a source, column or split that does not exist, a
    template or filter that does not parse, a source of which nothing is left, and weights that are all 0.
    """
    reader = Reader(
        seed=seed,
        split=split,
        known_topics=known_topics,
        repeated=Repetitions(data.dedup),
        contaminated=contaminated,
        streaming=data.streaming,
    )
    groups, counts = [], []
    for number, section in enumerate(data.all_sources):
        key = source_key(data, number)
        count = SourceCount(section.label, section.weight)
        rows = list(reader.read(section, number, key, count, first=FIRST if data.streaming else None))
        if not rows:
            raise _nothing_left(key, section, count)
        if isinstance(section.topics, TopicsFile) and not any(row.topics for row in rows):
            raise TopicLoraError(
                f"{key}.topics.file {section.topics.file!r} gives no topic to any of the {len(rows)} examples.",
                f"Compare its keys with what {key}.topics.key makes of the rows.",
            )
        groups.append(rows)
        counts.append(count)
    if not any(row.loss_weight for rows in groups for row in rows):
        raise TopicLoraError(
            "data: every example has a loss_weight of 0, so nothing would be learned.", "Give some a weight above 0."
        )
    groups, validation = _held_out(groups, data.validation, counts)
    if data.fraction < 1:
        for number, count in enumerate(counts):
            some = share_of(groups[number], data.fraction)
            count.surplus += len(groups[number]) - len(some)
            groups[number] = some
    weights = [section.weight for section in data.sources if section.weight is not None]
    rows = mix(groups, weights or None, seed=seed, stopping_strategy=data.stopping_strategy)
    # One counted by a column was kept to as the source was read.
    return Data(rows[: data.limit] if data.limit_by is None else rows, validation, counts)


def source_key(data: DataSection, number: int) -> str:
    """The place of a source in the recipe, for messages."""
    return f"data.sources.{number}" if data.sources else "data"


def position(text: str) -> float:
    """A place in [0, 1) that depends on the text alone; a share of the validation split lies below it."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _held_out(
    groups: list[list[Row]], wanted: float | None, counts: list[SourceCount]
) -> tuple[list[list[Row]], list[Row]]:
    """The groups without the examples kept out, and those in the order of their hashes.

    The hash is of the opening, so that one question with several answers, or a conversation, falls on one side.
    """
    if wanted is None:
        return groups, []
    last = float(wanted)
    if wanted >= 1:
        places = sorted({position(row.opening) for group in groups for row in group})
        last = places[min(int(wanted), len(places)) - 1]
    kept: list[list[Row]] = []
    out: list[tuple[float, Row]] = []
    for group, count in zip(groups, counts, strict=True):
        placed = [(position(row.opening), row) for row in group]
        kept.append([row for place, row in placed if place > last])
        out += [(place, row) for place, row in placed if place <= last]
        count.held_out = len(group) - len(kept[-1])
        if not kept[-1]:
            raise TopicLoraError(
                f"data.validation ({wanted}) keeps all {len(group)} examples of {count.label!r} out of training.",
                "Lower it.",
            )
    return kept, [row for _, row in sorted(out, key=lambda pair: pair[0])]


def _nothing_left(key: str, section: SourceSection, count: SourceCount) -> TopicLoraError:
    name = f"{key}.source {section.source!r}"
    if count.read == 0:
        return TopicLoraError(f"{name} has no examples.", f"Check {key}.split.")
    if count.filtered == count.read:
        return TopicLoraError(f"{key}.filter drops all {count.read} rows of {section.source!r}.", "Loosen it.")
    reasons = {
        f"without a value ({list_missing(count.wanting)})": count.missing,
        "of weight 0, or with an empty prompt or completion": count.empty,
        "duplicates": count.duplicates,
        "in the evaluation": count.contaminated,
        "filtered": count.filtered,
    }
    why = ", ".join(f"{reason} {number}" for reason, number in reasons.items() if number)
    return TopicLoraError(
        f"Nothing is left of the {count.read} rows of {name}: {why}.", "Check its templates and data.dedup."
    )
