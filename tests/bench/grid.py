"""How much of two workers' time a grid gets: the wall time of `launch` over the sum of its cells' own times, halved.

    python -m tests.bench.grid recipe.yaml --jobs 2

Cells' own times are measured in the same run, so that other load on the machine is in both; what is left is what
workers load, what the parent does, and the tail, where one worker has nothing to do. The grid is run in a folder that
is gone afterwards.
"""

import argparse
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from topiclora_cli.ablation import parent
from topiclora_cli.ablation.launch import launch
from topiclora_cli.ablation.launchers import Ended
from topiclora_cli.ablation.options import LaunchOptions
from topiclora_cli.ablation.runner import prepare_grid
from topiclora_cli.recipe import load_recipe
from topiclora_cli.runs.progress import LoggedProgress
from topiclora_cli.stages.whole import start_run


class Said(LoggedProgress):
    """The lines, with the seconds since the beginning."""

    def __init__(self) -> None:
        self.began = time.monotonic()

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.began:7.1f}  {text}", flush=True)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("recipe")
    asked.add_argument("--jobs", type=int, default=2)
    asked.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = asked.parse_args()
    own: list[float] = []
    take_in = parent.Parent._take_in

    def counted(self: parent.Parent, ended: Ended) -> None:
        own.append(ended.seconds or 0.0)
        take_in(self, ended)

    parent.Parent._take_in = counted  # type: ignore[method-assign]
    with TemporaryDirectory() as folder:
        progress = Said()
        recipe, run = start_run(load_recipe(options.recipe, options.set), Path(folder) / "run")
        grid = prepare_grid(recipe, run, progress)
        before, began = os.times(), time.monotonic()
        launch(grid, recipe, run, progress, LaunchOptions(jobs=options.jobs))
        wall, after = time.monotonic() - began, os.times()
    ideal = sum(own) / options.jobs
    parents = after.user + after.system - before.user - before.system
    workers = after.children_user + after.children_system - before.children_user - before.children_system
    print(f"{len(own)} cells, {options.jobs} workers: {wall:.1f} s for {sum(own):.1f} s of cells")
    print(f"ideal {ideal:.1f} s, ratio {wall / ideal:.3f}; longest cell {max(own):.1f} s")
    print(f"CPU: parent {parents:.1f} s, workers {workers:.1f} s")


if __name__ == "__main__":
    main()
