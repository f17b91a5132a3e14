"""Works a grid off, wherever its cells run.

Any number of processes may run one grid: each takes the next cell that nobody is at, and waits for what others still
have to find out. Cells know nothing of one another, as tests do not: one that fails leaves the others running.
"""

from collections.abc import Sequence
from pathlib import Path

from topiclora_cli.ablation.grid import Cell, count_runs
from topiclora_cli.ablation.launchers import Launcher
from topiclora_cli.ablation.launchers.here import Here
from topiclora_cli.ablation.launchers.local import Local
from topiclora_cli.ablation.launchers.on_ray import OnRay
from topiclora_cli.ablation.launchers.room import fitting, warn_of_crowding
from topiclora_cli.ablation.options import LaunchOptions
from topiclora_cli.ablation.parent import Parent
from topiclora_cli.ablation.reports import Reports
from topiclora_cli.ablation.stopping import Stopping
from topiclora_cli.ablation.work import Work
from topiclora_cli.recipe import Recipe
from topiclora_cli.runs.held import holding
from topiclora_cli.runs.progress import Progress
from topiclora_cli.runs.results.ablation import CellScore
from topiclora_cli.runs.results.record import GridFacts
from topiclora_cli.runs.run import RunDir
from topiclora_cli.stages.build_graph import with_chosen_experts
from topiclora_cli.stages.stage import stage


def launch(
    grid: Sequence[Cell],
    recipe: Recipe,
    run: RunDir,
    progress: Progress,
    options: LaunchOptions | None = None,
    *,
    alone: bool = False,
) -> list[CellScore]:
    """Train and evaluate what is missing, then score all; writes `ablation/report.md` and `ablation/results.json`.

    recipe: the one that the grid was prepared of. The report and the scores are of all cells and seeds that the run's
    own recipe has, or `alone` of the grid. What failed is on record in its folder, and not in the scores. Raises
    Interrupted or KeyboardInterrupt after a signal.
    """
    options = options or LaunchOptions()
    work = Work(grid, run.path / "ablation")
    reports = Reports(work, with_chosen_experts(recipe, run, progress), None if alone else run)
    with stage(run, "ablation", recipe) as running:
        launcher = open_launcher(grid, work.folder, progress, options)
        try:
            with holding(), Stopping(launcher, progress) as stopping:
                Parent(work, reports, launcher, stopping, progress, options).run()
        finally:
            launcher.close()
        scores = reports.write()
        running.result = GridFacts(cells=len(scores), seeds=len({each.seed for score in scores for each in score.runs}))
    return scores


def open_launcher(grid: Sequence[Cell], folder: Path, progress: Progress, options: LaunchOptions) -> Launcher:
    """What the options ask for; a GPU of one's own is another process's to have."""
    if options.launcher == "ray":
        return OnRay(grid, folder, progress, options)
    jobs = how_many(grid, progress, options)
    if jobs == 1 and not options.gpus:
        return Here(grid, folder, progress)
    warn_of_crowding(grid, jobs, options.gpus, progress)
    return Local(grid, folder, jobs, options.gpus)


def how_many(grid: Sequence[Cell], progress: Progress, options: LaunchOptions) -> int:
    """The number of cells at once that the options ask for, no more than there are."""
    asked = options.jobs or len(options.gpus) or 1
    return min(fitting(grid, options.gpus, progress) if asked == "auto" else asked, count_runs(grid))
