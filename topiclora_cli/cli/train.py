"""`topiclora train`: router and experts, by the dual loss."""

from contextlib import ExitStack
from typing import Annotated

import typer

from topiclora_cli.cli.console import TerminalProgress, console, fail_interrupted
from topiclora_cli.cli.options import OutOption, RecipeOption, RunOption, SetOption, start_or_open
from topiclora_cli.cli.tables import train_table
from topiclora_cli.processes import in_first, leave, process_count


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
    """Train an adapter on a recipe's data; builds the topic graph first where the run has none.

    In several processes under torchrun or accelerate launch.
    """
    overrides = list(overrides or [])
    if init_from is not None:
        overrides.append(f"adapter.init_from=[{init_from}]")
    if budget is not None:
        overrides.append(f"adapter.budget={budget}")
    settings, directory = in_first(lambda: start_or_open(recipe, overrides, run, out, resume=resume))
    from topiclora_cli import pipeline, stage_one
    from topiclora_cli.training.fit import Interrupted

    def prepare() -> None:
        locked.enter_context(directory.lock())
        if settings.needs_graph and not directory.is_done("graph"):
            stage_one.build_graph(settings, directory, TerminalProgress())

    try:
        with ExitStack() as locked:
            locked.callback(leave)
            in_first(prepare)
            result = pipeline.train(settings, directory, TerminalProgress(), resume=resume)
    except Interrupted as stop:
        # torchrun takes a --run that follows its own arguments for one of them.
        option = "--run" if process_count() == 1 else "--out"
        fail_interrupted(stop, f"topiclora train {option} {directory.path} --resume")
    console.print(train_table(result))
    console.print(
        f"Adapter: {directory.path / 'adapter'}\nNext:    topiclora eval --run {directory.path}", soft_wrap=True
    )
