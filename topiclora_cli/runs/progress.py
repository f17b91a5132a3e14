"""How long work reports on itself without knowing whether anybody watches."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

Item = TypeVar("Item")

Advance = Callable[[int, str], None]  # (steps done since the last call, a short note such as the loss)


class Progress(Protocol):
    """What the library needs of a display; the command line brings one that draws."""

    def say(self, text: str) -> None:
        """Print one line."""

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a small table."""

    def track(self, label: str, total: int, done: int = 0) -> AbstractContextManager[Advance]:
        """Show a bar for the block and yield the function that moves it; `done` of the total were done before."""


def tracked(progress: Progress, label: str, items: Sequence[Item]) -> Iterator[Item]:
    """The items one after another, under a bar that moves as each is done with."""
    with progress.track(label, len(items)) as advance:
        for item in items:
            yield item
            advance(1, "")
