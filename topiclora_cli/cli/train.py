"""`topiclora train`: router and experts, by the dual loss."""

from typing import Annotated

import typer

from topiclora_cli.cli.console import TerminalProgress, console, fail_interrupted
from topiclora_cli.cli.options import OutOption, RecipeOption, RunOption, SetOption, start_or_open
from topiclora_cli.cli.tables import train_table


def train(
    recipe: RecipeOption = None,
    run: RunOption = None,
    out: OutOption = None,
    overrides: SetOption = None,
    init_from: Annotated[
        str | None,
        typer.Option("--init-from", metavar="A,B,...", help="Folders of trained LoRA adapters to make the experts of."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option("--budget", "-b", metavar="total=4.2M", help="Solve the rank for these parameters."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the last sound checkpoint.")] = False,
) -> None:
    """Train an adapter on a recipe's data; builds the topic graph first where the run has none."""
    overrides = list(overrides or [])
    if init_from is not None:
        overrides.append(f"adapter.init_from=[{init_from}]")
    if budget is not None:
        overrides.append(f"adapter.budget={budget}")
    settings, directory = start_or_open(recipe, overrides, run, out, resume=resume)
    from topiclora_cli import pipeline, stage_one
    from topiclora_cli.training.fit import Interrupted

    try:
        with directory.lock():
            if settings.needs_graph and not directory.is_done("graph"):
                stage_one.build_graph(settings, directory, TerminalProgress())
            result = pipeline.train(settings, directory, TerminalProgress(), resume=resume)
    except Interrupted as stop:
        fail_interrupted(stop, f"topiclora train --run {directory.path} --resume")
    console.print(train_table(result))
    console.print(
        f"Adapter: {directory.path / 'adapter'}\nNext:    topiclora eval --run {directory.path}", soft_wrap=True
    )
