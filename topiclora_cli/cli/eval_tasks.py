"""`topiclora eval tasks`: what there is to evaluate, the data it needs, and whether that is at hand."""

from pathlib import Path
from typing import Annotated

import typer

from topiclora_cli.cli.console import console


def tasks(
    pattern: Annotated[str, typer.Argument(help="A part of a name, or a pattern: mmlu, 'arc_*'.")] = "*",
    include_path: Annotated[
        Path | None, typer.Option("--include-path", help="Folder with lm-eval task files of your own.")
    ] = None,
    datasets_dir: Annotated[
        Path | None, typer.Option("--datasets-dir", help="Folder of copies ORG/NAME of hub data sets.")
    ] = None,
    at_hand: Annotated[bool, typer.Option("--at-hand", help="Only those whose data is at hand.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with where the data lies.")] = False,
) -> None:
    """List tasks and groups by name; without a pattern, those that are no part of others."""
    from topiclora_cli.evaluation.listing import list_tasks
    from topiclora_cli.reporting.drawn import as_rich
    from topiclora_cli.reporting.tasks import tasks_json, tasks_table

    places = [None if place is None else str(place) for place in (include_path, datasets_dir)]
    found = list_tasks(pattern, include_path=places[0], datasets_dir=places[1])
    shown = [task for task in found if task.at_hand] if at_hand else found
    if as_json:
        typer.echo(tasks_json(shown))
    else:
        console.print(as_rich(tasks_table(shown, hidden=len(found) - len(shown))))
