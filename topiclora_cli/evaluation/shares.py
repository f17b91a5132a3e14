"""The batches of a task shared out among processes that were started together: each scores some, and all have all.

Batches are those that one process would make, so that several processes find what one does, to the digit.
"""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from itertools import chain
from typing import TypeVar

from topiclora_cli.runs.processes import process_count, process_index

T = TypeVar("T")
Batch = TypeVar("Batch")
_alone: ContextVar[bool] = ContextVar("alone", default=False)


def several() -> bool:
    """Whether there are other processes to share with, and what is under way is not a share already."""
    return process_count() > 1 and not _alone.get()


def shared_out(
    batches: Sequence[Batch],
    score: Callable[[Batch], dict[int, T]],
    told: Callable[[int], None] = lambda answers: None,
) -> dict[int, T]:
    """The answers to every batch by the number of the request; this process calls `score` for its share.

    A batch without an answer ends the scoring. told: called with how many answers there are more, as far as known here.
    Raises RuntimeError in all processes for an error in another.
    """
    if not several():
        return _scored(batches, score, told)
    from accelerate.utils import gather_object

    count, own = process_count(), process_index()
    found: dict[int, T] = {}
    error: Exception | None = None
    token = _alone.set(True)
    try:
        found = _scored(batches[own::count], score, lambda answers: told(answers * count))
    except Exception as raised:  # the others wait for the answers
        error = raised
    finally:
        _alone.reset(token)
    shares = gather_object([(found, None if error is None else f"{type(error).__name__}: {error}")])
    if error is not None:
        raise error
    if failed := [text for _, text in shares if text is not None]:
        raise RuntimeError(f"in another process: {failed[0]}")
    return {index: answer for share, _ in shares for index, answer in share.items()}


def _scored(
    batches: Sequence[Batch], score: Callable[[Batch], dict[int, T]], told: Callable[[int], None]
) -> dict[int, T]:
    found: dict[int, T] = {}
    for batch in batches:
        answers = score(batch)
        if not answers:
            break
        found |= answers
        told(len(answers))
    return found


def likelihood_batches(requests: Sequence[tuple[list[int], list[int]]], size: int) -> list[list[int]]:
    """Requests of (context, continuation) by number, in the batches that lm-eval makes of them.

    It sorts them by their tokens, longest first, and runs those that differ in the last token alone once.
    """
    alike: dict[tuple[int, ...], list[int]] = {}
    for index, (context, continuation) in enumerate(requests):
        alike.setdefault(tuple(context + continuation[:-1]), []).append(index)

    def place(group: list[int]) -> tuple[int, list[int]]:
        longest = max(group, key=lambda index: len(requests[index][1]))
        tokens = requests[longest][0] + requests[longest][1]
        return -len(tokens), tokens

    groups = sorted(alike.values(), key=place)
    return [sorted(chain(*groups[start : start + size])) for start in range(0, len(groups), size)]


def generation_batches(settings: Sequence[str], lengths: Sequence[tuple[int, str]], size: int) -> list[list[int]]:
    """Requests by number, in the batches that lm-eval makes of them: those of equal settings, longest first.

    settings: what each request is generated with. lengths: its tokens, and its text.
    """
    alike: dict[str, list[int]] = {}
    for index, each in enumerate(settings):
        alike.setdefault(each, []).append(index)
    batches = []
    for group in alike.values():
        ordered = sorted(group, key=lambda index: (-lengths[index][0], lengths[index][1]))
        batches += [ordered[start : start + size] for start in range(0, len(ordered), size)]
    return batches
