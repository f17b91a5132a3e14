"""`topiclora methods`: what there is to choose from, and what it costs."""

from typing import Annotated

import typer
from rich.table import Column, Table
from rich.text import Text

from topiclora_cli.cli.console import console
from topiclora_cli.cli.options import SetOption

_HEADS = ("method", "router", "experts", "rank", "first step", "sharing", "targets", "auxiliary losses")
_COUNTS = ("total", "activated", "%")


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
    overrides: SetOption = None,
    config_only: Annotated[
        bool,
        typer.Option(
            "--config-only",
            help="Count from the configuration alone; those of a few well-known models come with the package, nothing "
            "is downloaded.",
        ),
    ] = False,
    sources: Annotated[
        bool, typer.Option("--sources", help="Say of each where it comes from, what it follows and where it deviates.")
    ] = False,
) -> None:
    """List the methods for adapter.method with their reference settings; with --model, their parameters on it.

    The first step is how far a fresh adapter moves the output with Adam's first step (scale x rank x sum of the gates)
    against a plain LoRA of as many expert parameters whose alpha is twice its rank; 1.0 under adapter.scaling: total.
    The % is the adapter's activated parameters per hundred of the base model's, both per token.
    """
    from topiclora_cli.recipe.references import PROTOCOL
    from topiclora_cli.stages.catalogue import describe_methods

    rows = describe_methods(model, budget, names or [], overrides=overrides or [], config_only=config_only)
    # A name is there to be typed, so it is never cut short.
    table = Table(Column(_HEADS[0], no_wrap=True), *_HEADS[1:], *(_COUNTS if model else ()), box=None)
    for row in rows:
        counts = [f"{n:,}" if n is not None else "-" for n in (row.total, row.activated)] if model else []
        if model:
            counts.append(f"{row.percent:#.3g}".rstrip(".") if row.percent is not None else "-")
        cells = [
            row.name,
            row.router,
            row.experts,
            row.rank,
            _factor(row.first_step),
            row.sharing,
            row.targets,
            row.loss,
        ]
        table.add_row(*cells, *counts)
    console.print(table)
    for row in rows if sources else ():
        console.print()
        console.print(_reference_table(row.name))
    if sources:
        console.print(Text(f"\n{PROTOCOL}"))


def _factor(value: float | None) -> str:
    return "-" if value is None else f"{value:#.2g}".rstrip(".")


def _reference_table(name: str) -> Table:
    from topiclora_cli.recipe.references import REFERENCES

    reference = REFERENCES[name]
    table = Table(title=name, title_justify="left", box=None, show_header=False)
    table.add_row("paper", Text(reference.paper))
    table.add_row("code", Text(reference.code or "none of its authors'"))
    table.add_row("follows", Text(reference.follows))
    for deviation in reference.deviations:
        table.add_row("deviates", Text(f"{deviation.name}: {deviation.what}; {deviation.why}."))
    if not reference.deviations:
        table.add_row("deviates", "nowhere that we know of")
    return table
