"""`topiclora runs`: what has been run, and how it went."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from topiclora_cli.cli import complete
from topiclora_cli.cli.console import console
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.runs.commands import RUNS

if TYPE_CHECKING:
    from topiclora_cli.runs.results.metrics import LoggedStep

app = typer.Typer(invoke_without_command=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RootOption = Annotated[Path, typer.Option("--root", help="Folder of runs.")]


@app.callback()
def bare(context: typer.Context) -> None:
    """List runs and show what they hold; alone, list them."""
    if context.invoked_subcommand is None:
        list_()


@app.command("list")
def list_(root: RootOption = Path(RUNS), as_json: JsonOption = False) -> None:
    """Every run with its method, data, stages, latest score, and what it took."""
    from topiclora_cli.reporting.drawn import as_rich
    from topiclora_cli.reporting.runs import damaged_line, run_line, runs_table
    from topiclora_cli.runs.listing import sound_and_damaged

    runs, damaged = sound_and_damaged(root)
    lines = [*map(run_line, runs), *(damaged_line(path, why) for path, why in damaged.items())]
    if as_json:
        typer.echo(json.dumps([asdict(line) for line in lines], ensure_ascii=False, indent=2))
    elif lines:
        console.print(as_rich(runs_table(lines)))
        for why in damaged.values():
            console.print(f"Damaged: {why}", style="red", soft_wrap=True)
    else:
        console.print(f"No runs under {root}/. Start one with: topiclora quickstart")


@app.command()
def show(
    run: Annotated[
        Path | None, typer.Argument(autocompletion=complete.runs, help="The run (default: the latest).")
    ] = None,
    png: Annotated[Path | None, typer.Option("--png", help="Draw the curves of the training to this file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """One run's stages, timings, results and training curves."""
    from topiclora_cli.reporting.chart import curves_table
    from topiclora_cli.reporting.drawn import as_rich
    from topiclora_cli.reporting.runs import stages_table
    from topiclora_cli.reporting.scores import evaluations_table, exports_table
    from topiclora_cli.runs.listing import latest_run
    from topiclora_cli.runs.outcomes import run_as_json
    from topiclora_cli.runs.results.metrics import read_metrics
    from topiclora_cli.runs.run import METRICS, RunDir

    directory = RunDir(run) if run is not None else latest_run(RUNS)
    manifest = directory.manifest
    if as_json:
        typer.echo(run_as_json(directory))
        return
    facts_of_run = f"  recipe {manifest.name}, seed {manifest.seed}"
    console.print(Text.assemble((str(directory.path), "bold"), facts_of_run), soft_wrap=True)
    console.print(as_rich(stages_table(manifest)))
    for made in (evaluations_table(directory), exports_table(directory)):
        if made.rows:
            console.print(as_rich(made))
    rows = read_metrics(directory.path / METRICS)
    if rows:
        console.print(as_rich(curves_table(rows, columns_of_screen=console.width)))
    for each in rows:
        for text in each.alarms.values():
            console.print(f"Alarm at step {each.step}: {text}", style="red", soft_wrap=True)
    if png is not None:
        _draw(rows, png, title=f"{manifest.name}, seed {manifest.seed}")


@app.command()
def diff(
    one: Annotated[Path, typer.Argument(autocompletion=complete.runs, help="A run.")],
    other: Annotated[Path, typer.Argument(autocompletion=complete.runs, help="Another run.")],
    as_json: JsonOption = False,
) -> None:
    """What two runs were asked to do otherwise, key by key."""
    from topiclora_cli.reporting.differences import run_differences
    from topiclora_cli.reporting.drawn import as_rich
    from topiclora_cli.reporting.table import Column, Table, row
    from topiclora_cli.runs.run import RunDir

    runs = [RunDir(one), RunDir(other)]
    rows = run_differences(*runs)
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    if not rows:
        console.print("Their recipes say the same.")
        return
    columns = [Column("key"), *(Column(run.path.name) for run in runs)]
    cells = [row(key, *("-" if value is None else value for value in values)) for key, values in rows.items()]
    console.print(as_rich(Table("", columns, cells)))


@app.command()
def rm(
    runs: Annotated[list[Path], typer.Argument(autocompletion=complete.runs, help="The runs to delete.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete runs with all that they hold."""
    from topiclora_cli.reporting.formats import size
    from topiclora_cli.runs.remove import bytes_on_disk, remove_run
    from topiclora_cli.runs.run import RunDir

    doomed = list({path.resolve(): RunDir(path) for path in runs}.values())
    for run in doomed:
        console.print(f"{run.path}  {size(bytes_on_disk(run))}", soft_wrap=True)
    if not yes and not typer.confirm(f"Delete {'this run' if len(doomed) == 1 else f'these {len(doomed)} runs'}?"):
        raise typer.Exit(1)
    for run in doomed:
        remove_run(run)


def _draw(rows: list["LoggedStep"], path: Path, *, title: str) -> None:
    if not rows:
        raise TopicLoraError("The run has no training curves to draw yet.", "Train it first, or leave out --png.")
    from topiclora_cli.reporting.curves import plot_curves

    try:
        plot_curves(rows, path, title=title)
    except OSError as error:
        raise TopicLoraError(f"{path} cannot be written: {error.strerror}.", "Name another file.") from None
    console.print(f"Picture: {path}", soft_wrap=True)
