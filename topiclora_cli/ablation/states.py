"""How far every cell of a grid is, as the disk has it; nothing here loads torch, so that it is told at once."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from topiclora_cli.ablation.failures import read_failure
from topiclora_cli.ablation.finished import evaluation_of, lacks_probes, wants_probes
from topiclora_cli.ablation.folders import is_taken, open_cell
from topiclora_cli.ablation.grid import Cell
from topiclora_cli.ablation.tuning import Values
from topiclora_cli.ablation.work import Work
from topiclora_cli.errors import TopicLoraError, joined
from topiclora_cli.runs.results.record import Settings
from topiclora_cli.runs.run import MANIFEST

State = Literal["waiting", "running", "tried", "done", "failed", "diverged"]
_UNCHOSEN = "waits for ablation.tune"
_ALL_DIVERGED = "training diverged with every value of ablation.tune. Try lower values of it."


@dataclass(frozen=True)
class CellState:
    """One run of a grid: its cell, seed and values of `ablation.tune`, and how far it is.

    tried: trained with values that are to be chosen among, or were not chosen. stage: the one that runs, or at which it
    failed. seconds: of all its stages so far; None where nobody counted them. attempt: 0 before any has failed.
    """

    name: str
    seed: int
    folder: str
    tuned: Settings
    state: State
    reason: str = ""
    hint: str = ""
    seconds: float | None = None
    stage: str | None = None
    attempt: int = 0


def cell_states(grid: Sequence[Cell], folder: Path) -> list[CellState]:
    """The state of every run in the grid's order.

    Values that later seeds are not run with are left out; before they are chosen, each of these seeds has one entry,
    under its name alone.
    """
    return states_of(Work(grid, folder))


def states_of(work: Work) -> list[CellState]:
    """As cell_states, of a grid of which some is read already."""
    grid, folder = work.grid, work.folder
    states = {cell.folder: _state(cell, folder) for cell in grid}
    choices = {name: _choice(name, work, states) for name in dict.fromkeys(cell.name for cell in grid if cell.tuned)}
    found: dict[str, CellState] = {}
    for cell in grid:
        state = states[cell.folder]
        if cell.axes:
            why = work.why_nothing(cell) or _UNCHOSEN
            found[cell.folder] = CellState(cell.name, cell.seed, cell.folder, {}, "waiting", why)
            continue
        if not cell.tuned:
            found[cell.folder] = state
            continue
        chosen, why = choices[cell.name]
        if cell.seed == grid[0].seed:
            if cell.tuned == chosen and state.state == "tried":
                state = replace(state, state="waiting", reason="chosen, and not scored yet")
            found[cell.folder] = state
        elif chosen is None:
            name = f"{cell.name}-s{cell.seed}"
            found.setdefault(name, CellState(cell.name, cell.seed, name, {}, "waiting", why))
        elif cell.tuned == chosen:
            found[cell.folder] = state
    return list(found.values())


def failed_lines(states: Sequence[CellState]) -> Iterator[str]:
    """A line for every run that failed or diverged, with its reason and what to do, and for those that wait for it."""
    waiting: dict[str, list[str]] = {}
    for state in states:
        # Of several values to try, one that diverges is a finding.
        if state.state == "failed" or (state.state == "diverged" and state.attempt):
            yield f"{state.folder}: {joined(state.reason, state.hint)}"
        elif state.state == "waiting" and state.reason not in ("", _UNCHOSEN) and state.seconds is None:
            waiting.setdefault(state.reason, []).append(state.folder)
    for reason, names in waiting.items():
        yield f"{', '.join(names)}: {reason}"
    runs: dict[str, list[CellState]] = {}
    for state in states:
        runs.setdefault(state.name, []).append(state)
    # At a single seed nothing waits for them.
    for name, tried in runs.items():
        if all(state.tuned and state.state == "diverged" and not state.attempt for state in tried):
            yield f"{name}: {_ALL_DIVERGED}"


def _state(cell: Cell, folder: Path) -> CellState:
    path = folder / cell.folder
    about = CellState(cell.name, cell.seed, cell.folder, dict(cell.tuned), "waiting")
    manifest = _manifest(path)
    stages = manifest.get("stages", {})
    seconds = [stage["seconds"] for stage in stages.values() if stage.get("seconds") is not None]
    about = replace(about, seconds=round(sum(seconds), 1) if seconds else None)
    scored, failure = stages.get("eval", {}), read_failure(path)
    # What fails after the scores, such as a probe, fails the cell, too.
    since = failure is not None and failure.when >= scored.get("started", "")
    if scored.get("state") == "done" and not scored.get("failed") and not since and _is_probed(cell, folder):
        return replace(about, state="done")
    if is_taken(folder, cell.folder):
        at = next((name for name, stage in stages.items() if stage.get("state") == "running"), None)
        return replace(about, state="running", stage=at)
    if failure is not None:
        about = replace(about, reason=failure.reason, hint=failure.hint, stage=failure.stage, attempt=failure.attempt)
        return replace(about, state="diverged" if failure.diverged else "failed")
    if (why := manifest.get("diverged")) is not None:
        return replace(about, state="diverged", reason=why, stage="train")
    if cell.tuned and stages.get("train", {}).get("state") == "done":
        return replace(about, state="tried")
    return about


def _is_probed(cell: Cell, folder: Path) -> bool:
    """Whether no probe is left to ask; what cannot be read is told by who reads its scores."""
    if not wants_probes(cell):
        return True
    with suppress(TopicLoraError):
        run = open_cell(folder, cell)
        summary = evaluation_of(cell, run) if run is not None else None
        return summary is not None and not lacks_probes(summary)
    return True


def _manifest(path: Path) -> Mapping[str, Any]:
    """As plain values: of 200 cells each is looked at, and most of it is not what is asked here."""
    try:
        values = json.loads((path / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _choice(name: str, work: Work, states: Mapping[str, CellState]) -> tuple[Values | None, str]:
    """The values chosen for the cells of a name, or why there are none."""
    trials = work.trials.get(name, ())
    try:
        choice = work.choice(name)
        losses = [work.outcomes.loss(trial) for trial in trials]
    except TopicLoraError as error:
        return None, error.message
    if choice is not None:
        return choice.values, ""
    untried = [states[trial.folder] for trial, loss in zip(trials, losses, strict=True) if loss is None]
    if failed := [state.folder for state in untried if state.state in ("failed", "diverged")]:
        return None, f"not run, because {', '.join(failed)} failed"
    return None, _UNCHOSEN if untried else f"not run, because {_ALL_DIVERGED}"
