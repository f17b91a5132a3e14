"""A worker that loads no library: what it does with a cell is the cell's name."""

import os
import signal
import sys
import time
from multiprocessing.connection import Connection

from topiclora_cli.ablation.launchers import Ended


def interrupt(number, frame):
    raise KeyboardInterrupt


def main() -> None:
    signal.signal(signal.SIGTERM, interrupt)
    connection = Connection(int(sys.argv[1]))
    connection.recv()  # the grid
    while True:
        try:
            cell = connection.recv()
        except EOFError:
            return
        how, reason = "done", str(os.getpid())
        if cell.name.startswith("killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        elif cell.name.startswith("exits"):
            sys.exit(3)
        elif cell.name.startswith("fails"):
            how = "failed"
        elif cell.name.startswith("tells"):
            reason = (
                f"{os.environ['OMP_NUM_THREADS']} {os.environ.get('CUDA_VISIBLE_DEVICES')} {os.environ.get('RANK')}"
            )
        elif cell.name.startswith("long"):
            try:
                time.sleep(60)
            except KeyboardInterrupt:
                how = "interrupted"
        elif cell.name.startswith("deaf"):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            connection.send(Ended(cell, "done", "deaf now"))
            time.sleep(60)
        connection.send(Ended(cell, how, reason))


if __name__ == "__main__":
    main()
