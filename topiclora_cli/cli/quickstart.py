"""`topiclora quickstart`: the whole job on one run, ending with one screen that says what came of it."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.rule import Rule
from rich.text import Text

from topiclora_cli.cli.console import TerminalProgress, console, interruptible
from topiclora_cli.cli.options import OutOption, RecipeOption, RunOption, SetOption, start_or_open
from topiclora_cli.runs.commands import command_line

if TYPE_CHECKING:
    from topiclora_cli.recipe import Recipe

# Enough to show the mechanism; the full grid is a command of its own.
ABLATION_CELLS = ["full", "kl_off"]
ABLATION_LIMIT = 20  # questions per task


def quickstart(
    recipe: RecipeOption = None,
    run: RunOption = None,
    out: OutOption = None,
    overrides: SetOption = None,
    ablation_steps: Annotated[
        int, typer.Option("--ablation-steps", min=0, help="Training steps of each ablation cell; 0 leaves it out.")
    ] = 20,
) -> None:
    """Build the graph, train, evaluate, export and ablate, as far as the recipe has them.

    With --run, the graph and a finished training are kept.
    """
    recipe = recipe or (None if run else "quickstart")
    settings, directory = start_or_open(recipe, overrides, run, out)
    console.print(f"Run: {directory.path}", soft_wrap=True)
    from topiclora_cli.ablation.runner import prepare_grid, run_grid
    from topiclora_cli.reporting.markdown import write_report
    from topiclora_cli.reporting.scores import eval_table
    from topiclora_cli.reporting.table import as_rich
    from topiclora_cli.reporting.terminal import ablation_table, graph_tables, merge_table, routing_table
    from topiclora_cli.stages.build_graph import build_graph as build_graph_stage
    from topiclora_cli.stages.build_graph import open_graph
    from topiclora_cli.stages.evaluate import evaluate as evaluate_stage
    from topiclora_cli.stages.evaluate import try_tasks
    from topiclora_cli.stages.merge import merge as merge_stage
    from topiclora_cli.stages.train import train as train_stage

    progress = TerminalProgress()
    ablates = ablation_steps > 0 and "kl_off" in settings.ablation.cells
    stages = _numbered(settings, ablates)
    again = [] if recipe or run is None else [part for text in overrides or [] for part in ("--set", text)]
    with interruptible("quickstart", "--run", directory.path, *again), directory.lock():
        if not directory.is_done("train"):
            try_tasks(settings)
        if settings.needs_graph:
            console.print(stages["graph"])
            graph = (
                open_graph(directory)
                if directory.is_done("graph")
                else build_graph_stage(settings, directory, progress)
            )
        console.print(stages["train"])
        if not directory.is_done("train"):
            train_stage(settings, directory, progress, resume=directory.stage("train") is not None)
        console.print(stages["eval"])
        scores = evaluate_stage(settings, directory, progress)
        if settings.adapter.exports:
            console.print(stages["merge"])
            exported = merge_stage(settings, directory, progress)
        if ablates:
            console.print(stages["ablate"])
            small = _reduced(settings, ablation_steps)
            grid = prepare_grid(small, directory, progress, only=ABLATION_CELLS)
            ablation = run_grid(grid, small, directory, progress)
        write_report(directory)
    console.print(Rule("Summary", align="left"))
    if settings.needs_graph:
        console.print(graph_tables(graph.report)[0])
    console.print(as_rich(eval_table(scores)))
    if scores.routing:
        console.print(routing_table(scores.routing))
    if settings.adapter.exports:
        console.print(merge_table(exported.export, exported.folders))
    if ablates:
        console.print(ablation_table(ablation))
    console.print(_where(settings, str(directory.path), recipe or f"{directory.path}/recipe.yaml"), soft_wrap=True)


def _numbered(settings: "Recipe", ablates: bool) -> dict[str, Rule]:
    """Headings of the stages that the recipe has; a baseline, say, needs no graph."""
    stages = {
        "graph": "topics -> experts" if settings.needs_graph else "",
        "train": "prior, router and experts" if settings.needs_graph else "training",
        "eval": "base against tuned",
        "merge": "export with fixed gates" if settings.adapter.exports else "",
        "ablate": "a small ablation" if ablates else "",
    }
    titles = [(name, title) for name, title in stages.items() if title]
    return {name: Rule(f"{number}  {title}", align="left") for number, (name, title) in enumerate(titles, 1)}


def _reduced(settings: "Recipe", steps: int) -> "Recipe":
    from topiclora_cli.recipe import altered

    overrides = {"train.max_steps": steps, "eval.limit": ABLATION_LIMIT}
    if not settings.data.streaming:
        overrides["data.limit"] = steps * settings.train.batch_size * settings.train.gradient_accumulation
    changes = {"ablation.seeds": [settings.seed], "ablation.overrides": overrides}
    return altered(settings, changes.items(), where="quickstart")


def _where(settings: "Recipe", run: str, recipe: str) -> Text:
    topical, exports = settings.needs_graph, settings.adapter.exports
    files = [
        f"  {run}/report.md         everything above, and more",
        f"  {run}/graph/report.html topics, experts, their assignment and how it compares" if topical else "",
        f"  {run}/adapter/          the adapter, in peft's format",
        f"  {run}/merged/*/lora/    a stock LoRA for any LoRA server; dense/ beside it is the whole model"
        if exports
        else "",
        f"  {run}/eval/             every evaluation, with lm-eval's own results and samples",
        f"  {run}/metrics.jsonl     losses and routing of every step",
    ]
    commands = {
        command_line("eval", "--run", run, "--tasks", "arc_easy", "--limit", 100): "stock lm-eval tasks (need a hub)",
        command_line("merge", "--run", run, "--gates", "topic:arithmetic"): "an export for one topic"
        if topical and exports
        else "",
        command_line("ablate", "--recipe", f"{run}/recipe.yaml"): "the full grid, all seeds, in a run of its own"
        if settings.ablation.cells
        else "",
        command_line("recipes", "copy", recipe, "mine.yaml"): "your own model and data",
    }
    widest = max(map(len, commands))
    following = [f"  {line:{widest}}  {what}" for line, what in commands.items() if what]
    return Text("\n").join(
        [Text("Files", "bold"), *map(Text, filter(None, files)), Text("Next", "bold"), *map(Text, following)]
    )
