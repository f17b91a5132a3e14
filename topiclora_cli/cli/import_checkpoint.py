"""`topiclora import`: a published checkpoint as an adapter of ours."""

from pathlib import Path
from typing import Annotated

import typer

from topiclora_cli.cli.console import TerminalProgress, console
from topiclora_cli.runs.commands import command_line


def import_checkpoint(
    path: Annotated[Path, typer.Argument(help="Folder of the checkpoint, the file of its weights, or a hub id.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the adapter, which is a run besides.")],
    format_: Annotated[
        str,
        typer.Option(
            "--from",
            help="auto, hydralora, loramoe, mola, mixlora, moe-peft, adamole, perft or samora; auto tells by the keys.",
        ),
    ] = "auto",
    base: Annotated[
        str | None, typer.Option("--base", help="The base model (default: the one that the checkpoint names).")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", min=1, help="MoLA: experts for each token, which its file does not say.")
    ] = None,
    task: Annotated[
        int | None, typer.Option("--task", min=0, help="SAMoRA: the task to import (default: the mean of all).")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", min=1e-3, help="SAMoRA: the router's temperature in training.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the adapter that lies at --out.")] = False,
) -> None:
    """Turn a published mixture of LoRA into an adapter that computes exactly the same on today's libraries."""
    from topiclora_cli.importing.imported import Asked
    from topiclora_cli.stages.import_adapter import import_adapter

    made = import_adapter(
        path,
        out,
        TerminalProgress(),
        format_=format_,
        base=base,
        asked=Asked(top_k, task, temperature),
        force=force,
    )
    console.print(
        f"{out}: {made.method} from {made.format}, {made.parameters:,} parameters in {made.tensors} tensors, "
        f"on {made.base}\nNext: {command_line('eval', '--run', out)}",
        soft_wrap=True,
    )
