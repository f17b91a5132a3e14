"""What a shell offers at the tab key: names of recipes, runs, methods and topics, without loading torch.

`topiclora --install-completion` sets it up.
"""

import contextlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

import typer

from topiclora_cli.runs.commands import RUNS

_METHOD = "adapter.method="
_BREAKS = ("=", ":")  # at which bash cuts words apart
_WORDS, _PLACE = "COMP_WORDS", "COMP_CWORD"
_MANIFEST = "run.json"


def recipes(incomplete: str) -> list[str]:
    """Bundled recipes by name, recipe files by path."""
    from topiclora_cli.recipe import bundled_recipes

    return [
        *_starting(bundled_recipes(), incomplete),
        *_paths(incomplete, lambda path: path.suffix in (".yaml", ".yml")),
    ]


def runs(incomplete: str) -> list[str]:
    """Runs under runs/, and those at the path that is being typed."""
    known = [str(path.parent) for path in sorted(Path(RUNS).glob(f"*/{_MANIFEST}"))]
    beside = _paths(incomplete, lambda path: (path / _MANIFEST).is_file())
    return list(dict.fromkeys([*_starting(known, incomplete), *beside]))


def methods(incomplete: str) -> list[str]:
    """Methods by name."""
    from topiclora_cli.recipe.methods import METHODS

    return _starting(METHODS, incomplete)


def suites(incomplete: str) -> list[str]:
    """Suites of cells by name."""
    from topiclora_cli.ablation.suites import SUITES

    return _starting(SUITES, incomplete)


def settings(incomplete: str) -> list[str]:
    """Of the settings, the one whose values are names: the method."""
    if not (incomplete.startswith(_METHOD) or (incomplete and _METHOD.startswith(incomplete))):
        return []
    return [_METHOD + name for name in methods(incomplete[len(_METHOD) :])]


def gates(context: typer.Context, incomplete: str) -> list[str]:
    """Kinds of fixed gates: the mean, and every topic of the run."""
    run = context.params.get("run") or _latest()
    places = (Path(run) / folder / "graph.json" for folder in ("adapter/topic_graph", "graph")) if run else ()
    graph = next((place for place in places if place.is_file()), None)
    topics: list[str] = []
    with contextlib.suppress(OSError, ValueError, KeyError):  # no traceback at the tab key for a damaged file
        topics = json.loads(graph.read_text(encoding="utf-8"))["topics"] if graph is not None else []
    kinds = ["mean", "uniform", "learned", *(["topic:all"] if topics else [])]
    return _starting([*kinds, *(f"topic:{name}" for name in topics)], incomplete)


def completes_in_bash() -> bool:
    """Whether bash asks what to offer."""
    return os.environ.get("_TOPICLORA_COMPLETE") == "complete_bash" and _WORDS in os.environ


def complete_in_bash(application: Callable[[], object]) -> NoReturn:
    """Answer bash, which takes `topic:sums` for three words and puts what it is offered in the place of the last."""
    words, place = os.environ[_WORDS].split("\n"), int(os.environ[_PLACE])
    whole: list[str] = []
    glue = False
    for word in words[: place + 1]:
        if whole and (glue or word in _BREAKS):
            whole[-1] += word
        else:
            whole.append(word)
        glue = word in _BREAKS
    os.environ[_WORDS], os.environ[_PLACE] = "\n".join(whole), str(len(whole) - 1)
    typed = max((whole[-1].rfind(mark) for mark in _BREAKS), default=-1) + 1
    offered = io.StringIO()
    code: object = 0
    with contextlib.redirect_stdout(offered):
        try:
            application()
        except SystemExit as stop:
            code = stop.code
    space = " " if set(whole[-1]) & set("'\"") else "\\ "
    sys.stdout.write("".join(f"{line[typed:]}\n".replace(" ", space) for line in offered.getvalue().splitlines()))
    sys.exit(code)  # type: ignore[arg-type]


def _starting(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _paths(incomplete: str, wanted: Callable[[Path], bool]) -> list[str]:
    """Paths that go on from what is typed: those that are wanted, and folders on the way to others."""
    folder, _, start = incomplete.rpartition("/")
    parent = Path(folder or ("/" if incomplete.startswith("/") else "."))
    found: list[Path] = []
    with contextlib.suppress(PermissionError):
        found = sorted(parent.iterdir()) if incomplete and parent.is_dir() else []
    beginning = f"{folder}/" if "/" in incomplete else ""
    return [
        beginning + path.name + ("" if wanted(path) else "/")
        for path in found
        if path.name.startswith(start) and (wanted(path) or path.is_dir())
    ]


def _latest() -> Path | None:
    manifests = sorted(Path(RUNS).glob(f"*/{_MANIFEST}"), key=lambda path: path.stat().st_mtime)
    return manifests[-1].parent if manifests else None
