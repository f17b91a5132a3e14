"""`topiclora train`: router and experts, by the dual loss."""

from typing import TYPE_CHECKING, Annotated

import typer

from topiclora_cli.cli.console import TerminalProgress, console, interruptible, make_console
from topiclora_cli.cli.growth import GrowthOptions, with_growth
from topiclora_cli.cli.options import (
    OutOption,
    RecipeOption,
    RunOption,
    SetOption,
    assignment,
    listed,
    open_run,
    start_or_open,
)
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.runs.commands import command_line
from topiclora_cli.runs.processes import in_first, process_count

if TYPE_CHECKING:
    from topiclora_cli.recipe import Recipe


@with_growth
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
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what training would need, in memory, steps and disk; train nothing.")
    ] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="With --dry-run: time real steps also of a model to be downloaded.")
    ] = False,
    *,
    growth: GrowthOptions,
) -> None:
    """Train an adapter on a recipe's data; builds the topic graph first where the run has none.

    In several processes under torchrun or accelerate launch.
    """
    overrides = list(overrides or [])
    others = {"--recipe": recipe, "--init-from": init_from, "--budget": budget, "--resume": resume}
    if growth.check({**others, "--dry-run": dry_run, "--measure": measure, "--set": overrides}):
        growth.run(run, out, overrides)
        return
    if init_from is not None:
        overrides.append(assignment("adapter.init_from", listed(init_from)))
    if budget is not None:
        overrides.append(assignment("adapter.budget", budget))
    if dry_run or measure:
        if resume or not dry_run:
            message = "--dry-run has nothing to resume." if resume else "--measure belongs to --dry-run."
            raise TopicLoraError(message, "Example: topiclora train --recipe quickstart --dry-run")
        from topiclora_cli.recipe import load_recipe

        _say_needs(load_recipe(recipe, overrides) if recipe else open_run(run or out, overrides)[0], measure=measure)
        return
    settings, directory = in_first(lambda: start_or_open(recipe, overrides, run, out, resume=resume))
    from topiclora_cli.reporting.terminal import train_table
    from topiclora_cli.stages.whole import train_with_graph

    # torchrun takes a --run that follows its own arguments for one of them.
    option = "--run" if process_count() == 1 else "--out"
    with interruptible("train", option, directory.path, "--resume"):
        result = train_with_graph(settings, directory, TerminalProgress(), resume=resume)
    console.print(train_table(result))
    console.print(
        f"Adapter: {directory.path / 'adapter'}\nNext:    {command_line('eval', '--run', directory.path)}",
        soft_wrap=True,
    )


def _say_needs(recipe: "Recipe", *, measure: bool) -> None:
    from topiclora_cli.reporting.terminal import needs_table
    from topiclora_cli.stages.plan import estimate_needs

    needs = estimate_needs(recipe, TerminalProgress(make_console(quiet=True)), measure=measure)
    console.print(needs_table(needs, recipe.name))
