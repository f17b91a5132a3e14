"""A worker process of a grid: it attempts the cells that it is told, one after another, until it is told no more.

It ends where it can be resumed on SIGTERM, and when its parent is gone.
"""

import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Queue
from types import FrameType

from topiclora_cli.ablation.attempt import attempt
from topiclora_cli.ablation.grid import Cell
from topiclora_cli.ablation.launchers import Ended
from topiclora_cli.ablation.launchers.local import LOGS
from topiclora_cli.errors import Interrupted, TopicLoraError
from topiclora_cli.runs.files import make_folder
from topiclora_cli.runs.held import holding
from topiclora_cli.runs.progress import LoggedProgress


def serve(connection: Connection) -> None:
    """Attempt what comes through the connection, and say through it how each ended; a cell that failed is the last."""
    orders: Queue[Cell | None] = Queue()
    grid, folder = connection.recv()
    threading.Thread(target=_listen, args=(connection, orders), daemon=True).start()
    while (cell := orders.get()) is not None:
        _write_to(make_folder(folder / LOGS) / f"{cell.folder}.log")
        ended = _attempt(cell, grid, folder)
        with suppress(ConnectionError):  # of a parent that is gone, which `_listen` hears of
            connection.send(ended)
        if ended.how not in ("done", "busy"):
            return


def _attempt(cell: Cell, grid: Sequence[Cell], folder: Path) -> Ended:
    try:
        return attempt(cell, grid, folder, LoggedProgress())
    except (Interrupted, KeyboardInterrupt):
        return Ended(cell, "interrupted")
    except Exception as error:  # its folder cannot be written, and the parent cannot write there either
        logging.getLogger("topiclora_cli").exception("This cell cannot be attempted.")
        reason = str(error) if isinstance(error, TopicLoraError) else f"{type(error).__name__}: {error}"
        return Ended(cell, "died", reason)


def _listen(connection: Connection, orders: "Queue[Cell | None]") -> None:
    while True:
        try:
            orders.put(connection.recv())
        except (EOFError, OSError):
            orders.put(None)
            os.kill(os.getpid(), signal.SIGTERM)
            return


def _write_to(path: Path) -> None:
    """Have all that this process prints go to the end of a file, what libraries print from below Python, too."""
    sys.stdout.flush()
    sys.stderr.flush()
    with path.open("ab") as log:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(log.fileno(), stream.fileno())


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Serve the connection whose file descriptor is the only argument."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    descriptor = int(sys.argv[1])
    os.set_inheritable(descriptor, False)
    os.environ.setdefault("TQDM_DISABLE", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.basicConfig(format="%(asctime)s %(message)s", stream=sys.stdout)
    logging.getLogger("topiclora_cli").setLevel(logging.INFO)
    with suppress(KeyboardInterrupt, EOFError), holding():  # told to go, or nobody is there any more
        serve(Connection(descriptor))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.stdout.flush()
    # All is on disk, and an interpreter with these libraries takes many seconds to take itself apart.
    os._exit(0)


if __name__ == "__main__":
    main()
