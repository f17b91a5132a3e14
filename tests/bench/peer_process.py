"""The bench's end of `peers.py`: a process in another environment whose steps look like cases of this one."""

import json
import os
import subprocess
from functools import partial
from pathlib import Path

from tests.bench.timing import Case

ROOT = Path(__file__).parents[2]


class PeerProcess:
    """The peers, each with its model built and waiting; use as a context, so that they end with it."""

    def __init__(self, python: Path, arguments: list[str]) -> None:
        self.process = subprocess.Popen(
            # absolute, not resolved: following the link would leave the virtual environment
            [str(python.absolute()), "-W", "ignore", "-m", "tests.bench.peers", *arguments],
            cwd=ROOT,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.saved: dict[str, int] = json.loads(self._reply())

    def cases(self) -> dict[str, Case]:
        return {name: partial(self._step, name) for name in self.saved}

    def _step(self, name: str) -> float:
        assert self.process.stdin is not None
        print(name, file=self.process.stdin, flush=True)
        return float(self._reply())

    def _reply(self) -> str:
        assert self.process.stdout is not None
        if line := self.process.stdout.readline():
            return line
        raise RuntimeError(f"The peers' process ended with code {self.process.wait()}; its last words are above.")

    def __enter__(self) -> "PeerProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()  # closes its input, which ends it
