"""How long work reports on itself without knowing whether anybody watches."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
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
    if not items:
        return
    with progress.track(label, len(items)) as advance:
        for item in items:
            yield item
            advance(1, "")


class LoggedProgress:
    """The display of those who have no terminal: lines and tables go to the logger `topiclora_cli`, bars nowhere."""

    _logger = logging.getLogger("topiclora_cli")

    def say(self, text: str) -> None:
        """Log one line."""
        self._logger.info(text)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Log a table, a row a line."""
        for row in (columns, *rows):
            self._logger.info("%s: %s", title, "  ".join(row))

    @contextmanager
    def track(self, label: str, total: int, done: int = 0) -> Iterator[Advance]:
        """Nothing moves."""
        yield lambda steps, note: None
