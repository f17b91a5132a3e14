"""SIGINT and SIGTERM to a grid: the first asks what runs to end where it can be resumed, the second ends it at once."""

import signal
import threading
from types import FrameType
from typing import Any

from topiclora_cli.ablation.launchers import Launcher
from topiclora_cli.errors import Interrupted
from topiclora_cli.runs.progress import Progress


class Stopping:
    """Hears the signals for the block, in the main thread; raises Interrupted at its end for one of SIGTERM."""

    def __init__(self, launcher: Launcher, progress: Progress) -> None:
        self.launcher, self.progress = launcher, progress
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    @property
    def stopped(self) -> bool:
        """Whether a signal has come."""
        return self.signal is not None

    def raise_if_stopped(self) -> None:
        """Raises Interrupted with the signal that has come, if any."""
        if self.signal is not None:
            raise Interrupted(self.signal)

    def __enter__(self) -> "Stopping":
        heard = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
        for number in heard:
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if kind is KeyboardInterrupt:
            self.raise_if_stopped()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            self.launcher.kill()
            raise KeyboardInterrupt
        self.signal = number
        self.launcher.stop()
        self.progress.say("Stopping where each cell can be resumed; another signal ends them at once.")
