"""Some of many examples: at random, and yet of every kind as many as its share, however the data is sorted."""

import random
from collections.abc import Sequence

from topiclora_cli.data.clean import digest
from topiclora_cli.data.row import Row


def draw(rows: Sequence[Row], count: int, *, seed: int) -> list[Row]:
    """`count` of the rows in the order given, or all where they are fewer.

    A kind is the rows with the same topics from the same source; its part of the result is its part of the rows,
    rounded up or down (systematic sampling of the rows ordered by kind).
    """
    if len(rows) <= count:
        return list(rows)
    generator = random.Random(seed)
    order = sorted(range(len(rows)), key=lambda index: (rows[index].topics, rows[index].source, generator.random()))
    start = generator.random()
    chosen = (order[int((start + turn) * len(rows) / count)] for turn in range(count))
    return [rows[index] for index in sorted(chosen)]


def share_of(rows: Sequence[Row], share: float) -> list[Row]:
    """A share of the rows in the order given, at least one, and of every kind its part; a smaller share of the same
    rows is part of a larger one.

    A kind is as `draw` has it; within one, a hash of the example decides.
    """
    kinds: dict[tuple[tuple[str, ...], int], list[tuple[bytes, int]]] = {}
    for place, row in enumerate(rows):
        marked = (digest(f"share\0{row.opening}\0{row.completion}"), place)
        kinds.setdefault((tuple(row.topics), row.source), []).append(marked)
    spread: list[tuple[float, int]] = []
    for kind, members in kinds.items():
        # Kinds begin apart, or a small share would have the first of every one and no more.
        start = random.Random(repr(kind)).random()
        ordered = enumerate(place for _, place in sorted(members))
        spread += [((start + turn) / len(members), place) for turn, place in ordered]
    count = max(1, round(share * len(rows)))
    return [rows[place] for place in sorted(place for _, place in sorted(spread)[:count])]


def at_most(limit: int, kinds: Sequence[tuple[str, str]]) -> list[int]:
    """The places of `limit` texts of each kind in pairs (kind, text), or of all where they are fewer, in their order.

    A hash of the text decides which, so that others may come and go.
    """
    by_kind: dict[str, list[tuple[bytes, int]]] = {}
    for place, (kind, text) in enumerate(kinds):
        # Salted: by its bare hash a text is held out, and the two are to have nothing to do with one another.
        by_kind.setdefault(kind, []).append((digest(f"limit\0{text}"), place))
    return sorted(place for marked in by_kind.values() for _, place in sorted(marked)[:limit])
