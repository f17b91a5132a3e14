"""Commands of topiclora as a shell reads them."""

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

NAME = "topiclora"
_COMMAND = re.compile(
    r"(?<![\w./-])topiclora (?=(?:quickstart|build-graph|train|eval|compare|merge|route|ablate|report|methods|recipes|"
    r"runs|upcycle|data|chat|serve)\b)"
)

RUNS = "runs"  # the folder of runs, where nobody says


def command_line(*parts: object) -> str:
    """A command that a shell takes as it is meant, spaces in paths included, and that finds this program."""
    return f"{program()} {_joined(*parts)}"


def lasting_line(*parts: object) -> str:
    """A command for a file, which is read elsewhere: it takes the program to be on the path."""
    return f"{NAME} {_joined(*parts)}"


def program() -> str:
    """How a shell calls this program from here: by its name where that finds it, else as it was started."""
    started = Path(sys.argv[0]) if sys.argv else Path()
    if started.name == "__main__.py" and started.parent.name == "topiclora_cli":
        return f"{shlex.quote(_from_here(Path(sys.executable)))} -m topiclora_cli"
    if started.name != NAME:
        return NAME
    found = shutil.which(NAME)
    if found and os.path.realpath(found) == os.path.realpath(started):
        return NAME
    return shlex.quote(_from_here(started))


def as_typed(text: str) -> str:
    """Text with the commands in it as a shell takes them from here."""
    name = program()
    return text if name == NAME else _COMMAND.sub(f"{name} ", text)


def _joined(*parts: object) -> str:
    return shlex.join(map(str, parts))


def _from_here(path: Path) -> str:
    """A path from this folder where it lies below it, or the whole path."""
    # Not resolved: a link in an environment is not the program that it points to.
    whole, here = Path(os.path.abspath(path)), Path.cwd()
    return str(whole.relative_to(here)) if whole.is_relative_to(here) else str(whole)
