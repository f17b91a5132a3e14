"""The terminal: bars with rate and time left where somebody watches, plain lines where nobody does."""

import signal
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from topiclora_cli.errors import Interrupted, OldSpelling, TopicLoraError, joined
from topiclora_cli.runs.commands import as_typed, command_line
from topiclora_cli.runs.files import is_full_disk
from topiclora_cli.runs.processes import process_index
from topiclora_cli.runs.progress import Advance

SOME_FAILED = 1  # exit code, as pytest has it: 2 is for mistakes in what was asked
NO_SPACE = "No space is left on the device."
PLAIN_INTERVAL = 20.0  # seconds between two lines of a bar that nobody watches


def make_console(**options: Any) -> Console:
    """A console that prints text as it is; all that is drawn goes through one of these.

    Topics, sources, paths and errors are other people's text: a square bracket in it is no markup, nor is :smile: a
    picture. What is to be bold is a rich Text.
    """
    return Console(highlight=False, markup=False, emoji=False, **options)


# Of several processes the first speaks for all, but each reports what stopped it.
console = make_console(quiet=process_index() > 0)
errors = make_console(stderr=True)


def fail(message: str, hint: str = "") -> None:
    """Print an error as one line, with what to do about it."""
    where = f"error in process {index}: " if (index := process_index()) else "error: "
    text = as_typed(" ".join(joined(message, hint).split()))
    errors.print(Text.assemble((where, "bold red"), text), soft_wrap=True)


def note_newer(packages: Sequence[str]) -> None:
    """Say once which installed packages are newer than the releases that topiclora was tested with."""
    if packages and process_index() == 0:
        words = f"note: {', '.join(packages)}: newer than tested; constraints.txt has versions that work together."
        errors.print(words, style="yellow", soft_wrap=True)


@contextmanager
def old_spelling_noted() -> Iterator[None]:
    """In the block, the first old name of a setting is noted in one line, and no other: a run repeats its recipe."""
    noted = process_index() > 0
    with warnings.catch_warnings():
        show = warnings.showwarning

        def note(message: Warning | str, category: type[Warning], *where: Any) -> None:
            nonlocal noted
            if not issubclass(category, OldSpelling):
                show(message, category, *where)
            elif not noted:
                noted = True
                errors.print(f"note: {message}", style="yellow", soft_wrap=True)

        warnings.simplefilter("always", OldSpelling)
        warnings.showwarning = note  # type: ignore[assignment]
        yield


@contextmanager
def interruptible(*command: object) -> Iterator[None]:
    """Where a signal or a full disk stops the block, say which command goes on; exit with the signal's code, or 2."""
    try:
        yield
    except Interrupted as stop:
        if process_index() == 0:
            if stop.step is None:
                fail("Interrupted.", f"Go on with: {command_line(*command)}")
            else:
                fail(f"Interrupted at step {stop.step}; a checkpoint is saved.", f"Resume: {command_line(*command)}")
        raise typer.Exit(stop.exit_code) from None
    except KeyboardInterrupt:
        if process_index() == 0:
            fail("Interrupted.", f"Go on with: {command_line(*command)}")
        raise typer.Exit(128 + signal.SIGINT) from None
    except Exception as error:
        if not is_full_disk(error):
            raise
        fail(NO_SPACE, f"Free some, and go on with: {command_line(*command)}")
        raise typer.Exit(TopicLoraError.exit_code) from None


class TerminalProgress:
    """The display that the library's Progress protocol asks for; on standard output unless told otherwise."""

    def __init__(self, to: Console = console) -> None:
        self.to = to

    def say(self, text: str) -> None:
        self.to.print(text, soft_wrap=True)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        table = Table(*columns, title=title, title_justify="left", box=None)
        for row in rows:
            table.add_row(*row)
        self.to.print(table)

    @contextmanager
    def track(self, label: str, total: int, done: int = 0) -> Iterator[Advance]:
        # Where it stands now: the block may have what libraries print go elsewhere.
        to = make_console(file=self.to.file, quiet=self.to.quiet, force_terminal=self.to.is_terminal)
        if to.is_terminal:
            from topiclora_cli.cli.bar import make_bar

            with make_bar(to) as bar:
                task = bar.add_task(label, total=total, completed=done, note="")
                yield lambda steps, note: bar.update(task, advance=steps, note=note)
        else:
            yield _PlainBar(label, total, done, to).advance


class _PlainBar:
    def __init__(self, label: str, total: int, done: int, to: Console) -> None:
        self.label, self.total, self.to = label, total, to
        self.before = self.done = done
        self.started = self.printed = time.monotonic()

    def advance(self, steps: int, note: str) -> None:
        self.done += steps
        now = time.monotonic()
        if now - self.printed < PLAIN_INTERVAL and self.done < self.total:
            return
        self.printed = now
        rate = (self.done - self.before) / max(1e-9, now - self.started)
        left = (self.total - self.done) / max(1e-9, rate)
        line = f"{self.label} {self.done}/{self.total}  {rate:.2f}/s  {left:.0f} s left  {note}".rstrip()
        self.to.print(line, soft_wrap=True)
