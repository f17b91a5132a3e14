"""`topiclora push`: a run's adapter or export on the hub, with its card."""

from pathlib import Path
from typing import Annotated

import typer

from topiclora_cli.cli import complete
from topiclora_cli.cli.console import console


def push(
    run: Annotated[Path, typer.Argument(autocompletion=complete.runs, help="The run.")],
    repository: Annotated[str, typer.Argument(metavar="USER/NAME", help="The repository, made where there is none.")],
    what: Annotated[
        str,
        typer.Option("--what", help="adapter, or of an export: lora, bundle (of topic:all), dense or self-loading."),
    ] = "adapter",
    export: Annotated[
        str | None, typer.Option("--export", help="Name of the export under merged/ (default: the latest).")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make the repository a private one.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write the folder that would be pushed, list it, and push nothing.")
    ] = False,
) -> None:
    """Publish an adapter or an export, with a card: how it was made, what it scores, and how to load it."""
    from topiclora_cli.reporting.formats import size
    from topiclora_cli.runs.run import RunDir
    from topiclora_cli.stages.push import push as push_stage

    done = push_stage(RunDir(run), repository, what=what, export=export, private=private, rehearse=dry_run)
    for name, count in done.files.items():
        console.print(f"  {name}  {size(count)}", soft_wrap=True)
    if done.local_base is not None:
        note = f"Note: adapter_config.json names the base as {done.local_base}, which nobody else has."
        console.print(f"{note} Train on, or import with --base, the name of a hub.", soft_wrap=True)
    whole = f"{len(done.files)} files, {size(sum(done.files.values()))}"
    of = f"{done.what} of {done.export}" if done.export else done.what
    if done.folder is not None:
        console.print(f"{done.folder}: what would be pushed to {done.repository} ({of}; {whole})", soft_wrap=True)
    else:
        console.print(f"{done.address}: {of}, {whole}", soft_wrap=True)
