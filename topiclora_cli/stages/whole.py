"""Runs as whoever starts one sees them: from a recipe to a folder, and a training with the graph that it needs."""

import os
from contextlib import ExitStack

from topiclora_cli.recipe import Recipe, anchored, dump_recipe
from topiclora_cli.runs.commands import RUNS
from topiclora_cli.runs.processes import in_first, leave
from topiclora_cli.runs.progress import Progress
from topiclora_cli.runs.results.training import TrainResult
from topiclora_cli.runs.run import RunDir, new_run_path


def start_run(recipe: Recipe, out: str | os.PathLike[str] | None = None) -> tuple[Recipe, RunDir]:
    """A new run of a recipe at `out`, or at runs/NAME-TIME, and the recipe as the run keeps it, its paths in full.

    Raises TopicLoraError where something else is at `out`.
    """
    recipe = anchored(recipe)
    path = out if out is not None else new_run_path(RUNS, recipe.name)
    return recipe, RunDir.create(path, recipe_yaml=dump_recipe(recipe), name=recipe.name, seed=recipe.seed)


def train_with_graph(recipe: Recipe, run: RunDir, progress: Progress, *, resume: bool = False) -> TrainResult:
    """Train a run's adapter while no other process may write there; builds the topic graph first where it has none.

    Raises what the two stages do.
    """
    from topiclora_cli.stages.build_graph import build_graph
    from topiclora_cli.stages.train import train

    def prepare() -> None:
        locked.enter_context(run.lock())
        if recipe.needs_graph and not run.is_done("graph") and not run.is_done("train"):
            build_graph(recipe, run, progress)

    with ExitStack() as locked:
        locked.callback(leave)
        in_first(prepare)
        return train(recipe, run, progress, resume=resume)
