"""Runs a grid cell by cell, each in a run directory of its own, and never one that is finished."""

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topiclora_cli import pipeline, scoring, stage_one
from topiclora_cli.ablation.grid import FULL, Cell, make_grid
from topiclora_cli.ablation.report import write_report
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.files import read_json
from topiclora_cli.formats import mean_label
from topiclora_cli.inputs import asked_for
from topiclora_cli.naming import SUMMARY, finished
from topiclora_cli.progress import Progress
from topiclora_cli.recipe import Recipe, dump_recipe, load_recipe
from topiclora_cli.rundir import RECIPE, RunDir
from topiclora_cli.stages import stage


@dataclass(frozen=True)
class CellScore:
    """A cell over its seeds: mean score, standard deviation (None for one seed), paired gain over `full`.

    The score is the mean over tasks of the metric (or kind of metric) `metric`, in `unit`.
    """

    name: str
    seeds: int
    metric: str
    unit: str
    higher_is_better: bool | None
    mean: float
    deviation: float | None
    against_full: float | None
    kl: float | None
    mutual_information: float | None


def run_grid(recipe: Recipe, run: RunDir, progress: Progress, *, only: Sequence[str] | None = None) -> list[CellScore]:
    """Train and evaluate what is missing, then score all; writes `ablation/report.md` and `ablation/results.json`."""
    # One number for all cells: they are to differ in what their overrides say.
    grid = make_grid(stage_one.settled(recipe, run, progress), only=only)
    folder = run.path / "ablation"
    there = [_existing(folder / cell.folder, cell.recipe) for cell in grid]
    # A task that cannot be scored is to be known before a cell is trained.
    new = [cell.recipe for cell, made in zip(grid, there, strict=True) if made is None]
    for each in {repr(each.eval): each for each in new}.values():
        scoring.try_tasks(each)
    with stage(run, "ablation", recipe) as record:
        results: dict[str, dict[int, dict[str, Any]]] = {}
        for number, cell in enumerate(grid, 1):
            progress.say(f"Ablation cell {number}/{len(grid)}: {cell.name}, seed {cell.seed}")
            results.setdefault(cell.name, {})[cell.seed] = _run_cell(cell, folder, progress)
        scores = [_score(name, by_seed, results.get(FULL, {})) for name, by_seed in results.items()]
        write_report(folder, scores, grid)
        record.update(cells=len(results), seeds=len(recipe.ablation.seeds))
    return scores


def _run_cell(cell: Cell, folder: Path, progress: Progress) -> dict[str, Any]:
    path = folder / cell.folder
    run = _existing(path, cell.recipe)
    if run is None:
        run = RunDir.create(path, recipe_yaml=dump_recipe(cell.recipe), name=cell.name, seed=cell.seed)
    if cell.recipe.needs_graph and not run.is_done("graph"):
        stage_one.build_graph(cell.recipe, run, progress)
    if not run.is_done("train"):
        pipeline.train(cell.recipe, run, progress, resume=bool(run.stage("train")))
    # Its own evaluation: somebody may have made others in the cell since.
    asked = asked_for(cell.recipe, run, "eval")
    scores = finished(path / "eval", SUMMARY, asked)
    if scores is None or _read(scores)["failed"]:
        scoring.evaluate(cell.recipe, run, progress)
        # A cell is kept for its numbers; its optimizer states would fill the disk.
        shutil.rmtree(path / "checkpoints", ignore_errors=True)
        scores = finished(path / "eval", SUMMARY, asked)
        assert scores is not None
    final = {k: v for k, v in run.stage("train")["final"].items() if k.startswith("loss")}
    result = _read(scores)
    if result["failed"]:
        raise TopicLoraError(f"{path}: {', '.join(result['failed'])} could not be scored.", "See its eval folder.")
    if result["mean"] is None:
        raise TopicLoraError(
            "The tasks' metrics are of different kinds, and cells are compared by one figure.",
            "Choose metrics of one kind with eval.metrics.",
        )
    return {**result, **final}


def _read(scores: Path) -> dict[str, Any]:
    return read_json(scores, hint="Delete the cell's folder.")


def _existing(path: Path, wanted: Recipe) -> RunDir | None:
    if not path.exists():
        return None
    run = RunDir(path)
    # The grid that a cell is part of, and who said what, change nothing in it.
    apart = {"ablation": True}
    if load_recipe(str(path / RECIPE)).model_dump(exclude=apart) != wanted.model_dump(exclude=apart):
        raise TopicLoraError(
            f"{path} holds a cell with other settings.", "Delete that folder, or run the grid in a new run with --out."
        )
    return run


def _score(name: str, by_seed: dict[int, dict[str, Any]], full: dict[int, dict[str, Any]]) -> CellScore:
    means = [result["mean"]["tuned"] for result in by_seed.values()]
    pairs = [result["mean"]["tuned"] - full[seed]["mean"]["tuned"] for seed, result in by_seed.items() if seed in full]
    some = next(iter(by_seed.values()))
    kls = [result["loss_kl"] for result in by_seed.values() if "loss_kl" in result]
    information = [r["routing"]["mutual_information"] for r in by_seed.values() if r.get("routing")]
    return CellScore(
        name=name,
        seeds=len(means),
        metric=mean_label(some),
        unit=some["mean"]["unit"],
        higher_is_better=some["mean"]["higher_is_better"],
        mean=_mean(means),
        deviation=math.sqrt(sum((m - _mean(means)) ** 2 for m in means) / (len(means) - 1)) if len(means) > 1 else None,
        against_full=_mean(pairs) if pairs else None,
        kl=_mean(kls) if kls else None,
        mutual_information=_mean(information) if information else None,
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
