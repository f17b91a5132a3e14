"""`topiclora merge`: a routed adapter as what ordinary tools load, and what that costs."""

from pathlib import Path
from typing import Annotated

import typer

from topiclora_cli.cli import complete
from topiclora_cli.cli.console import TerminalProgress, console
from topiclora_cli.cli.keyed import with_keys
from topiclora_cli.cli.merge_options import MERGE_OPTIONS, WRITTEN
from topiclora_cli.cli.options import NameOption, RunOption, SetOption, assignment, open_trained
from topiclora_cli.errors import TopicLoraError


@with_keys(MERGE_OPTIONS)
def merge(
    changes: list[str],
    where: Annotated[
        Path | None,
        typer.Argument(metavar="[RUN]", help="The run (default: the latest under runs/).", show_default=False),
    ] = None,
    run: RunOption = None,
    gates: Annotated[
        str | None,
        typer.Option(
            "--gates",
            autocompletion=complete.gates,
            help="mean, topic:NAME, topic:all, topics:a=0.6,b=0.4, uniform, learned, expert:NUMBER; mean:FILE and "
            "learned:FILE go by the prompts of a file.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder of the export (default: merged/NAME).", rich_help_panel=WRITTEN),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace --out.", rich_help_panel=WRITTEN)] = False,
    name: NameOption = None,
    overrides: SetOption = None,
) -> None:
    """Export a run's adapter for tools that know only plain LoRA, dense weights, or transformers alone."""
    if where is not None and run is not None:
        raise TopicLoraError(f"Both {where} and --run {run} name a run.", "Leave one out.")
    if name is not None and out is not None:
        raise TopicLoraError("--name and --out both say where the export goes.", "Leave one out.")
    changes = [*changes, *([assignment("merge.gates", gates)] if gates is not None else [])]
    settings, directory = open_trained(run or where, changes)
    from topiclora_cli.reporting.drawn import as_rich
    from topiclora_cli.reporting.exports import MOST_TOPICS, export_tables
    from topiclora_cli.reporting.terminal import merge_table
    from topiclora_cli.stages.merge import merge as merge_stage

    with directory.lock():
        result = merge_stage(settings, directory, TerminalProgress(), name=name, out=out, force=force)
    console.print(merge_table(result.export))
    for table in export_tables(result.export, most=MOST_TOPICS):
        console.print(as_rich(table))
    # Beside the table, which would cut a long path.
    for kind, folder in result.folders.items():
        console.print(f"{kind}: {folder}", soft_wrap=True)
