"""`topiclora methods`: what there is to choose from, and what it costs."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from topiclora_cli.cli import complete
from topiclora_cli.cli.console import console
from topiclora_cli.cli.options import SetOption

if TYPE_CHECKING:
    from topiclora_cli.reporting.table import Cell, Table
    from topiclora_cli.stages.catalogue import MethodRow

_HEADS = ("method", "router", "experts", "rank", "first step", "sharing", "targets", "auxiliary losses")
_COUNTS = ("total", "activated", "%")


def methods(
    names: Annotated[
        list[str] | None, typer.Argument(autocompletion=complete.methods, help="Methods to show (default: all).")
    ] = None,
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
    from topiclora_cli.reporting.drawn import as_rich
    from topiclora_cli.reporting.table import Column, Table
    from topiclora_cli.stages.catalogue import describe_methods

    rows = describe_methods(model, budget, names or [], overrides=overrides or [], config_only=config_only)
    # A name is there to be typed, so it is never cut short.
    columns = [Column(_HEADS[0], wrap=False), *map(Column, (*_HEADS[1:], *(_COUNTS if model else ())))]
    console.print(as_rich(Table("", columns, [_cells(each, counted=model is not None) for each in rows])))
    for each in rows if sources else ():
        console.print()
        console.print(as_rich(_reference_table(each.name)))
    if sources:
        console.print(Text(f"\n{PROTOCOL}"))


def _factor(value: float | None) -> str:
    return "-" if value is None else f"{value:#.2g}".rstrip(".")


def _cells(method: "MethodRow", *, counted: bool) -> "list[Cell]":
    from topiclora_cli.reporting.table import row

    counts = [f"{n:,}" if n is not None else "-" for n in (method.total, method.activated)]
    counts.append(f"{method.percent:#.3g}".rstrip(".") if method.percent is not None else "-")
    return row(
        method.name,
        method.router,
        method.experts,
        method.rank,
        _factor(method.first_step),
        method.sharing,
        method.targets,
        method.loss,
        *(counts if counted else ()),
    )


def _reference_table(name: str) -> "Table":
    from topiclora_cli.recipe.references import REFERENCES
    from topiclora_cli.reporting.table import facts

    reference = REFERENCES[name]
    deviations = [("deviates", f"{each.name}: {each.what}; {each.why}.") for each in reference.deviations]
    return facts(
        name,
        [
            ("paper", reference.paper),
            ("code", reference.code or "none of its authors'"),
            ("follows", reference.follows),
            *(deviations or [("deviates", "nowhere that we know of")]),
        ],
    )
