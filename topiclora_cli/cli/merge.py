"""`topiclora merge`: fixed gates, a stock LoRA, a dense model, and what that costs."""

from typing import Annotated

import typer

from topiclora_cli.cli import complete
from topiclora_cli.cli.console import TerminalProgress, console
from topiclora_cli.cli.options import NameOption, RunOption, SetOption, assignment, open_trained


def merge(
    run: RunOption = None,
    gates: Annotated[
        str | None,
        typer.Option(
            "--gates", autocompletion=complete.gates, help="'mean' routing of the calibration prompts, or 'topic:NAME'."
        ),
    ] = None,
    name: NameOption = None,
    overrides: SetOption = None,
) -> None:
    """Export a run's adapter with fixed gates, for tools that know only plain LoRA or dense weights."""
    changes = [*(overrides or []), *([assignment("merge.gates", gates)] if gates is not None else [])]
    settings, directory = open_trained(run, changes)
    from topiclora_cli.reporting.terminal import merge_table
    from topiclora_cli.stages.merge import merge as merge_stage

    with directory.lock():
        result = merge_stage(settings, directory, TerminalProgress(), name=name)
    console.print(merge_table(result.export))
    # Beside the table, which would cut a long path.
    for kind, folder in result.folders.items():
        console.print(f"{kind}: {folder}", soft_wrap=True)
