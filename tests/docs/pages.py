"""README and the pages beside it as blocks, commands and keys, for the tests that hold them to what there is."""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"(?:<!-- ([^>]+) -->\s*\n)?^```(\w*)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, its language, what a comment before it says it is, and its text."""

    page: str
    language: str
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}: {self.text.strip().splitlines()[0][:50]}"


def blocks(*languages: str) -> list[Block]:
    """The fenced blocks of these languages on all pages."""
    found = []
    for path in PAGES:
        for kind, language, text in _BLOCK.findall(path.read_text(encoding="utf-8")):
            if language in languages:
                found.append(Block(path.name, language, kind.strip(), text))
    return found


def notebook() -> Block:
    """The code of the notebook."""
    cells = json.loads((ROOT / "examples" / "python.ipynb").read_text(encoding="utf-8"))["cells"]
    return Block(
        "python.ipynb", "python", "", "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    )


def prose(path: Path) -> str:
    """A page without its fenced blocks."""
    return _BLOCK.sub("", path.read_text(encoding="utf-8"))


def inline(path: Path) -> list[str]:
    """What stands in backquotes in a page's prose, on one line each."""
    return [" ".join(text.split()) for text in _INLINE.findall(prose(path))]


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of every topiclora command in a shell's text."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        for place, word in enumerate(words):
            if word.rpartition("/")[2] == "topiclora":
                yield _up_to_the_shell(words[place + 1 :])
                break
            if words[place : place + 2] == ["-m", "topiclora_cli"]:
                yield _up_to_the_shell(words[place + 2 :])
                break


def _up_to_the_shell(words: list[str]) -> list[str]:
    return list(takewhile(lambda word: word not in (">", "|", "&&"), words))
