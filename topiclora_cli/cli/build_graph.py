"""`topiclora build-graph`: topics become experts."""

from typing import Annotated

import typer

from topiclora_cli.cli.console import TerminalProgress, console, interruptible
from topiclora_cli.cli.options import OutOption, RecipeOption, RunOption, SetOption, assignment, start_or_open
from topiclora_cli.runs.commands import command_line


def build_graph(
    recipe: RecipeOption = None,
    run: RunOption = None,
    out: OutOption = None,
    overrides: SetOption = None,
    experts: Annotated[
        str | None,
        typer.Option("--experts", "-e", help="Number of experts, or auto; short for --set adapter.num_experts=N."),
    ] = None,
) -> None:
    """Build the topic graph: embed topics, train the GNN, place the experts, assign topics to them."""
    changes = list(overrides or [])
    if experts is not None:
        changes.append(assignment("adapter.num_experts", int(experts) if experts.isdecimal() else experts))
    settings, directory = start_or_open(recipe or (None if run else "quickstart"), changes, run, out)
    from topiclora_cli.reporting.terminal import graph_tables
    from topiclora_cli.stages.build_graph import build_graph as build_graph_stage

    with interruptible("build-graph", "--run", directory.path), directory.lock():
        result = build_graph_stage(settings, directory, TerminalProgress())
    for table in graph_tables(result.report):
        console.print(table)
    console.print(f"Graph: {result.folder}\nNext:  {command_line('train', '--run', directory.path)}", soft_wrap=True)
