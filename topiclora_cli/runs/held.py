"""What a process keeps from one cell of a grid to the next: the latest of each kind, where it is told to."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")

_KEPT: ContextVar[dict[str, tuple[object, Any]] | None] = ContextVar("held", default=None)


@contextmanager
def holding() -> Iterator[None]:
    """In the block, and in this thread, `held` keeps what it has made."""
    token = _KEPT.set({})
    try:
        yield
    finally:
        _KEPT.reset(token)


def is_holding() -> bool:
    """Whether this thread is in such a block."""
    return _KEPT.get() is not None


def held(kind: str, key: object, make: Callable[[], T], *, sound: Callable[[T], bool] = lambda value: True) -> T:
    """What was made last of this kind, if it was for an equal key and is still sound; else what `make` makes."""
    kept = _KEPT.get()
    if kept is None:
        return make()
    if kind in kept:
        before, value = kept[kind]
        if before == key and sound(value):
            found: T = value
            return found
        del kept[kind], value  # gone before the next one is made: there may be room for one alone
    made = make()
    kept[kind] = (key, made)
    return made
