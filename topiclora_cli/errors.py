"""The one error that a user of topiclora is meant to read, and the one way to stop that is none."""

import difflib
from collections.abc import Iterable


class TopicLoraError(ValueError):
    """A mistake the user can mend: one line saying what is wrong, one saying what to do; exit code 2.

    A ValueError, as peft and transformers raise for settings that they refuse. Everything else that escapes is a bug of
    ours and keeps its traceback.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = _ended(message) if hint else message
        self.hint = hint

    def __str__(self) -> str:
        return joined(self.message, self.hint)


class Diverged(TopicLoraError):
    """Training whose loss or gradient is no number any more."""


class Hopeless(TopicLoraError):
    """Training that was stopped because others had come further by then."""


class OldSpelling(UserWarning):
    """A name of an earlier version, which is read as what it is called now."""


class Interrupted(Exception):
    """Work stopped on a signal where it can go on; of a training, after saving the checkpoint of a `step`."""

    def __init__(self, signal_number: int, step: int | None = None) -> None:
        super().__init__("interrupted" if step is None else f"interrupted at step {step}")
        self.exit_code = 128 + signal_number
        self.step = step


def joined(reason: str, hint: str) -> str:
    """What went wrong and what to do about it as one text; either may be empty."""
    return f"{_ended(reason)} {hint}" if reason and hint else reason or hint


def _ended(text: str) -> str:
    """With its full stop, which what another library says may lack."""
    return text if text.endswith((".", "!", "?", ":")) else f"{text}."


def first_line(error: Exception) -> str:
    """The first line of what another library says."""
    return str(error).strip().splitlines()[0]


def nearest(name: str, known: Iterable[str], *, count: int = 3, meant: str | None = None) -> str:
    """Turn a misspelt name into a hint that lists the nearest known names, or all of a short list.

    meant: what it means for sure, which comes first.
    """
    names = sorted(set(known))
    initials = [each for each in names if name == "".join(word[:1] for word in each.split("_"))]
    alike = difflib.get_close_matches(name, names, n=count, cutoff=0.5)
    close = list(dict.fromkeys([*([meant] if meant else []), *initials, *alike]))[:count]
    if close:
        return "Did you mean " + " or ".join(repr(match) for match in close) + "?"
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"Known: {shown}." if names else ""
