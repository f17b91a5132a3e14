"""What a model holds between one layer and the next, apart for each thread that runs it."""

import threading
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class PerThread(Generic[T]):
    """A value of each thread's own, None until that thread sets it; a copy, by pickle too, starts without any."""

    def __init__(self) -> None:
        self._own = threading.local()

    def get(self) -> T | None:
        """This thread's value."""
        return getattr(self._own, "value", None)

    def set(self, value: T | None) -> None:
        """Replace this thread's value."""
        self._own.value = value

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()
