"""`topiclora data`: the training data, looked at before anything is trained."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from topiclora_cli.cli import complete
from topiclora_cli.cli.console import TerminalProgress, console
from topiclora_cli.cli.options import RecipeOption, SetOption, open_run
from topiclora_cli.runs.commands import command_line

if TYPE_CHECKING:
    from topiclora_cli.recipe import Recipe
    from topiclora_cli.runs.run import RunDir

app = typer.Typer(no_args_is_help=True, help="Look at training data before anything is trained.")

DataRunOption = Annotated[
    Path | None,
    typer.Option(
        "--run",
        autocompletion=complete.runs,
        help="The recipe and the topic graph of this run (default, without --recipe: the latest).",
    ),
]


@app.command()
def preview(
    recipe: RecipeOption = None,
    run: DataRunOption = None,
    count: Annotated[int, typer.Option("-n", min=1, help="How many examples.")] = 3,
    tokens: Annotated[bool, typer.Option("--tokens", help="List every token, too.")] = False,
    overrides: SetOption = None,
) -> None:
    """Print examples as the model sees them, and which of their tokens the loss is taken over.

    In colour, or between marks where there is none. With a run that has a topic graph, what they are about beside it.
    """
    settings, directory = _opened(recipe, run, overrides)
    from topiclora_cli.reporting.preview import example_text, legend, tokens_table
    from topiclora_cli.stages.preview import preview_data

    examples = preview_data(settings, directory, count, TerminalProgress())
    coloured = console.color_system is not None and not console.no_color
    console.print(legend(coloured=coloured))
    for number, example in enumerate(examples, 1):
        console.print()
        console.print(example_text(example, number, coloured=coloured), soft_wrap=True)
        if tokens:
            console.print(tokens_table(example, coloured=coloured))
    again = ["--recipe", recipe] if recipe is not None else ["--run", directory.path] if directory is not None else []
    again += [part for text in overrides or [] for part in ("--set", text)]
    console.print(f"\nAll of it in numbers: {command_line('data', 'report', *again)}", soft_wrap=True)


@app.command()
def report(
    recipe: RecipeOption = None,
    run: DataRunOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    overrides: SetOption = None,
) -> None:
    """Say what would become of each source: how long examples are, what is left out and why, what repeats."""
    settings, _ = _opened(recipe, run, overrides)
    from topiclora_cli.reporting.data import show
    from topiclora_cli.stages.preview import data_report

    found = data_report(settings)
    if as_json:
        typer.echo(json.dumps([asdict(source) for source in found], ensure_ascii=False, indent=2))
    else:
        show(found, TerminalProgress())


def _opened(recipe: str | None, run: Path | None, overrides: list[str] | None) -> tuple["Recipe", "RunDir | None"]:
    """The recipe whose data is meant, and the run, if any, whose topic graph is."""
    if recipe is None:
        return open_run(run, overrides)
    from topiclora_cli.recipe import load_recipe
    from topiclora_cli.runs.run import RunDir

    return load_recipe(recipe, overrides or []), None if run is None else RunDir(run)
