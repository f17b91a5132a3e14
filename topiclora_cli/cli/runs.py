"""`topiclora runs`: what has been run, and how it went."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from topiclora_cli.cli.console import console
from topiclora_cli.cli.options import RUNS
from topiclora_cli.rundir import RunDir, latest_run, list_runs

app = typer.Typer(help="List runs and show what they hold.", no_args_is_help=True)

_COLUMNS = ("state", "seconds", "started")

RootOption = Annotated[Path, typer.Option("--root", help="Folder of runs.")]


@app.command("list")
def list_(root: RootOption = Path(RUNS)) -> None:
    """Every run with the state of its stages."""
    table = Table("run", "created", "stages", box=None)
    for run in list_runs(root):
        manifest = run.manifest
        stages = ", ".join(f"{name} {record['state']}" for name, record in manifest["stages"].items())
        table.add_row(run.path.name, manifest.get("created", "?"), stages or "none")
    console.print(table if table.row_count else f"No runs under {root}/. Start one with: topiclora quickstart")


@app.command()
def show(run: Annotated[Path | None, typer.Argument(help="The run (default: the latest).")] = None) -> None:
    """One run's stages, timings and results."""
    directory = RunDir(run) if run is not None else latest_run(RUNS)
    manifest = directory.manifest
    console.print(f"[bold]{directory.path}[/bold]  recipe {manifest['name']}, seed {manifest['seed']}", soft_wrap=True)
    table = Table("stage", "state", "seconds", "result", box=None)
    for name, record in manifest["stages"].items():
        facts = {k: v for k, v in record.items() if k not in _COLUMNS and not isinstance(v, dict)}
        shown = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in facts.items())
        table.add_row(name, record["state"], str(record.get("seconds", "")), shown)
    console.print(table)
