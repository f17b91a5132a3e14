"""`topiclora methods`: what there is to choose from, and what it costs."""

from typing import Annotated

import typer
from rich.table import Table

from topiclora_cli.cli.console import console

_HEADS = ("method", "router", "experts", "rank", "sharing", "targets", "auxiliary losses")


def methods(
    names: Annotated[list[str] | None, typer.Argument(help="Methods to show (default: all).")] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Count parameters on this model."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option("--budget", "-b", metavar="total=4.2M", help="Solve each rank for this many parameters."),
    ] = None,
    sources: Annotated[bool, typer.Option("--sources", help="Show where each method comes from.")] = False,
) -> None:
    """List the methods for adapter.method with their reference settings; with --model, their parameters on it."""
    from topiclora_cli.catalogue import describe_methods

    rows = describe_methods(model, budget, names or [])
    table = Table(*_HEADS, *(("total", "activated") if model else ()), *(("source",) if sources else ()), box=None)
    for row in rows:
        counts = [f"{n:,}" if n is not None else "-" for n in (row.total, row.activated)] if model else []
        cells = [row.name, row.router, row.experts, row.rank, row.sharing, row.targets, row.loss]
        table.add_row(*cells, *counts, *([row.source] if sources else []))
    console.print(table)
