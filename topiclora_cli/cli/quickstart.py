"""`topiclora quickstart`: the whole job on one run, ending with one screen that says what came of it."""

from typing import Annotated

import typer
from rich.rule import Rule

from topiclora_cli.cli.console import TerminalProgress, console, fail_interrupted
from topiclora_cli.cli.options import OutOption, RecipeOption, RunOption, SetOption, start_or_open
from topiclora_cli.cli.tables import ablation_table, eval_table, graph_tables, merge_table, routing_table
from topiclora_cli.recipe import Recipe, build_recipe, with_overrides

# Enough to show the mechanism; the full grid is a command of its own.
ABLATION_CELLS = ["full", "kl_off"]
ABLATION_LIMIT = 20  # questions per task


def quickstart(
    recipe: RecipeOption = "quickstart",
    run: RunOption = None,
    out: OutOption = None,
    overrides: SetOption = None,
    ablation_steps: Annotated[
        int, typer.Option("--ablation-steps", min=0, help="Training steps of each ablation cell; 0 leaves it out.")
    ] = 20,
) -> None:
    """Build the graph, train, evaluate, export and ablate; with --run, the graph and a finished training are kept."""
    settings, directory = start_or_open(None if run else recipe, overrides, run, out)
    console.print(f"Run: {directory.path}", soft_wrap=True)
    from topiclora_cli import pipeline
    from topiclora_cli.ablation.runner import run_grid
    from topiclora_cli.report import write_report
    from topiclora_cli.training.fit import Interrupted

    progress = TerminalProgress()
    with directory.lock():
        console.print(Rule("1  topics -> experts", align="left"))
        graph = (
            pipeline.open_graph(directory)
            if directory.is_done("graph")
            else pipeline.build_graph(settings, directory, progress)
        )
        try:
            console.print(Rule("2  prior, router and experts", align="left"))
            if not directory.is_done("train"):
                pipeline.train(settings, directory, progress, resume=bool(directory.stage("train")))
            console.print(Rule("3  base against tuned", align="left"))
            scores = pipeline.evaluate(settings, directory, progress)
            console.print(Rule("4  export with fixed gates", align="left"))
            export = pipeline.merge(settings, directory, progress)
            if ablation_steps:
                console.print(Rule("5  a small ablation", align="left"))
                ablation = run_grid(_reduced(settings, ablation_steps), directory, progress, only=ABLATION_CELLS)
        except Interrupted as stop:
            fail_interrupted(stop, f"topiclora quickstart --run {directory.path}")
        write_report(directory)
    console.print(Rule("Summary", align="left"))
    console.print(graph_tables(graph)[0])
    console.print(eval_table(scores))
    if scores["routing"]:
        console.print(routing_table(scores["routing"]))
    console.print(merge_table(export))
    if ablation_steps:
        console.print(ablation_table(ablation))
    console.print(_where(str(directory.path)), soft_wrap=True)


def _reduced(settings: Recipe, steps: int) -> Recipe:
    changes = {
        "ablation.seeds": [settings.seed],
        "ablation.overrides": {
            "train.max_steps": steps,
            "eval.limit": ABLATION_LIMIT,
            "data.limit": steps * settings.train.batch_size * settings.train.gradient_accumulation,
        },
    }
    return build_recipe(with_overrides(settings.model_dump(), changes.items()), where="quickstart")


def _where(run: str) -> str:
    return f"""[bold]Files[/bold]
  {run}/report.md         everything above, and more
  {run}/graph/graph.png   topics, experts and their assignment
  {run}/adapter/          the routed adapter, in peft's format
  {run}/merged/lora/      a stock LoRA for any LoRA server; merged/dense/ is the whole model
  {run}/eval/             lm-eval's own results and samples
  {run}/metrics.jsonl     losses and routing of every step
[bold]Next[/bold]
  topiclora eval --run {run} --tasks arc_easy --limit 100      stock lm-eval tasks (need a hub)
  topiclora merge --run {run} --gates topic:arithmetic         an export for one topic
  topiclora ablate --recipe {run}/recipe.yaml                  the full grid, all seeds, in a run of its own
  topiclora recipes copy quickstart mine.yaml                  your own model and data"""
