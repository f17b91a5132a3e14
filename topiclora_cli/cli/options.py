"""Options that several commands share, and what they mean together: which recipe, which run."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from topiclora_cli.cli import complete
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.runs.commands import RUNS
from topiclora_cli.runs.processes import in_first

if TYPE_CHECKING:
    from topiclora_cli.recipe import Recipe
    from topiclora_cli.runs.run import RunDir

_OF_TRAINING = ("adapter", "loss", "train", "ablation")

RecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe", "-r", autocompletion=complete.recipes, help="A recipe file, or the name of a bundled one."
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        autocompletion=complete.settings,
        metavar="KEY=VALUE",
        help="Override a recipe key; may be repeated.",
    ),
]
RunOption = Annotated[
    Path | None,
    typer.Option("--run", autocompletion=complete.runs, help="Work in this run (default: the latest under runs/)."),
]
NameOption = Annotated[
    str | None, typer.Option("--name", help="Folder of the outcome (default: named by what was asked for).")
]
OutOption = Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the new run (default: runs/NAME-TIME).")]


def assignment(key: str, value: Any) -> str:
    """An option of its own as an override: the value comes through as it was typed, whatever YAML would make of it."""
    return f"{key}={json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)}"


def listed(text: str) -> list[str]:
    """The items of a comma-separated option."""
    return [item.strip() for item in text.split(",") if item.strip()]


def refuse_both(recipe_name: str | None, run: Path | None, out: Path | None) -> None:
    """Raise TopicLoraError where an existing run and a new one are named."""
    if run is not None and (recipe_name is not None or out is not None):
        raise TopicLoraError("--run cannot be combined with --recipe or --out.", "A run carries its own recipe.")


def start_run(recipe_name: str, overrides: list[str] | None, out: Path | None) -> tuple["Recipe", "RunDir"]:
    """A new run of a recipe."""
    from topiclora_cli.recipe import load_recipe
    from topiclora_cli.stages.whole import start_run as start

    return start(load_recipe(recipe_name, overrides or []), out)


def find_run(run: Path | None) -> "RunDir":
    """An existing run, by default the latest."""
    from topiclora_cli.runs.listing import latest_run
    from topiclora_cli.runs.run import RunDir

    return RunDir(run) if run is not None else latest_run(RUNS)


def open_run(run: Path | None, overrides: list[str] | None) -> tuple["Recipe", "RunDir"]:
    """An existing run, by default the latest, with its recipe; overrides are this call's, and a training's."""
    from topiclora_cli.recipe import load_recipe
    from topiclora_cli.runs.run import RECIPE

    directory = find_run(run)
    return load_recipe(str(directory.path / RECIPE), overrides or []), directory


def open_trained(run: Path | None, overrides: list[str] | None) -> tuple["Recipe", "RunDir"]:
    """An existing run whose adapter is taken as it was trained.

    Raises TopicLoraError where there is none, or where an override is about its training.
    """
    from topiclora_cli.recipe import parse_override

    for key, _ in map(parse_override, overrides or []):
        if key.split(".")[0] in _OF_TRAINING and key != "train.precision":
            raise TopicLoraError(
                f"--set {key} would change nothing: the adapter is taken as it was trained.",
                "Leave it out, or train a run with it.",
            )
    settings, directory = open_run(run, overrides)
    directory.require("adapter", made_by="train")
    return settings, directory


def start_or_open(
    recipe_name: str | None, overrides: list[str] | None, run: Path | None, out: Path | None, *, resume: bool = False
) -> tuple["Recipe", "RunDir"]:
    """The run that --recipe, --run, --out and --resume point to together.

    --resume continues the run at --out, else the latest of that recipe. Raises TopicLoraError where they contradict.
    """
    refuse_both(recipe_name, run, out)
    if recipe_name is None:
        return open_run(run or out, overrides)
    if not resume:
        return start_run(recipe_name, overrides, out)
    if out is not None:
        return open_run(out, overrides)
    from topiclora_cli.recipe import load_recipe
    from topiclora_cli.runs.listing import latest_run

    return open_run(latest_run(RUNS, name=load_recipe(recipe_name, overrides or []).name).path, overrides)


def hold_in_first(held: ExitStack, directory: "RunDir | None") -> None:
    """Hold the run, if any, for writing until `held` is left: in the first of several processes, for all."""

    def hold() -> None:
        if directory is not None:
            held.enter_context(directory.lock())

    in_first(hold)
