"""`topiclora quickstart`: the whole job on one run, ending with one screen that says what came of it."""

import math
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer
from rich.rule import Rule
from rich.text import Text

from topiclora_cli.cli.console import SOME_FAILED, TerminalProgress, console, interruptible
from topiclora_cli.cli.options import OutOption, RecipeOption, RunOption, SetOption, start_or_open
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.runs.commands import command_line

if TYPE_CHECKING:
    from topiclora_cli.recipe import Recipe

# Enough to show the mechanism; the full grid is a command of its own.
ABLATION_CELLS = ["full", "kl_off"]
ABLATION_LIMIT = 20  # questions per task
MINUTES = {"quickstart": 12, "perft-quickstart": 12}  # where --minutes is not given
SIZES = {"data.per_family", "data.limit", "train.max_steps", "train.epochs"}  # what says how long a training is


def quickstart(
    recipe: RecipeOption = None,
    run: RunOption = None,
    out: OutOption = None,
    overrides: SetOption = None,
    ablation_steps: Annotated[
        int, typer.Option("--ablation-steps", min=0, help="Training steps of each ablation cell; 0 leaves it out.")
    ] = 0,
    minutes: Annotated[
        float | None,
        typer.Option(
            "--minutes",
            "-m",
            min=0,
            help="Choose steps and questions so that all ends in about so many minutes on this machine, up to the "
            "recipe's own; 0 keeps those. (default: 12 for the recipes quickstart and perft-quickstart, else 0)",
        ),
    ] = None,
) -> None:
    """Build the graph, train, evaluate, export and ablate, as far as the recipe has them.

    With --run, the graph and a finished training are kept.
    """
    started = time.monotonic()
    if run is not None and minutes:
        raise TopicLoraError(
            "--minutes chooses the sizes of a new run, and --run has its own.", "Leave one of them out."
        )
    recipe = recipe or (None if run else "quickstart")
    if recipe is not None and run is None:
        wanted = MINUTES.get(recipe, 0) if minutes is None else minutes
        chosen = _fitting(recipe, overrides or [], wanted, started, insist=minutes is not None)
        overrides = [*(overrides or []), *chosen]
    settings, directory = start_or_open(recipe, overrides, run, out)
    console.print(f"Run: {directory.path}", soft_wrap=True)
    from topiclora_cli.ablation.launch import launch
    from topiclora_cli.ablation.runner import prepare_grid
    from topiclora_cli.ablation.states import cell_states, failed_lines
    from topiclora_cli.reporting import screen, summary
    from topiclora_cli.reporting.markdown import write_report
    from topiclora_cli.runs.results.metrics import read_metrics
    from topiclora_cli.runs.run import METRICS
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
    graph = exported = None
    failed: list[str] = []
    with interruptible("quickstart", "--run", directory.path, *again), directory.lock():
        if not directory.is_done("train"):
            try_tasks(settings)
        if settings.needs_graph:
            console.print(stages["graph"])
            done = directory.is_done("graph")
            graph = open_graph(directory) if done else build_graph_stage(settings, directory, progress)
            _say(summary.graph_lines(graph.report))
        console.print(stages["train"])
        if not directory.is_done("train"):
            train_stage(settings, directory, progress, resume=directory.stage("train") is not None)
        trained = directory.manifest.trained
        assert trained is not None
        _say(summary.train_lines(trained, read_metrics(directory.path / METRICS)))
        console.print(stages["eval"])
        scores = evaluate_stage(settings, directory, progress)
        _say(summary.eval_lines(scores))
        if settings.adapter.exports:
            console.print(stages["merge"])
            exported = merge_stage(settings, directory, progress)
            _say(summary.export_lines(exported.export, exported.folders))
        if ablates:
            console.print(stages["ablate"])
            small = _reduced(settings, ablation_steps)
            cells = prepare_grid(small, directory, progress, only=ABLATION_CELLS)
            launch(cells, small, directory, progress, alone=True)
            failed = list(failed_lines(cell_states(cells, directory.path / "ablation")))
            _say([f"{ablation_steps} steps show that the cells run, not which is better: see ablation/report.md"])
        write_report(directory)
    console.print(Rule("Summary", align="left"))
    topics = [topic for names in graph.report.topics_by_expert.values() for topic in names] if graph else []
    _say(screen.results(directory, scores, exported.export if exported else None))
    _say(screen.files(directory, exported=exported is not None))
    console.print(Text("Next:", "bold"))
    copied = recipe or str(directory.path / "recipe.yaml")
    _say(f"  {line}" for line in screen.following(settings, directory, copied, topics))
    if failed:
        raise typer.Exit(SOME_FAILED)


def _fitting(recipe: str, overrides: list[str], minutes: float, started: float, *, insist: bool) -> list[str]:
    """The sizes of a run that ends so many minutes after its start, as overrides; none of those that were given."""
    from topiclora_cli.recipe import load_recipe, parse_override
    from topiclora_cli.recipe.fill import said_keys
    from topiclora_cli.recipe.overrides import with_overrides

    if not math.isfinite(minutes):
        raise TopicLoraError(f"--minutes {minutes} is no time to fit into.", "0 keeps the recipe's own sizes.")
    given = set(said_keys(with_overrides({}, map(parse_override, overrides))))
    settings = load_recipe(recipe, overrides)
    if minutes == 0 or ("eval.limit" in given and not given.isdisjoint(SIZES)):
        return []
    console.print(
        f"Fitting {settings.name} to {minutes:g} minutes: loading {settings.model.name}, timing a few steps ...",
        soft_wrap=True,
    )
    from topiclora_cli.reporting.formats import duration
    from topiclora_cli.stages.pace import choose_sizes, measure_pace, sizes_of

    pace = measure_pace(settings, TerminalProgress())
    fit = choose_sizes(settings, pace, 60 * minutes, spent=time.monotonic() - started, insist=insist)
    sizes = sizes_of(settings, fit)
    # A size that was given stays, and with it the others that say the same.
    kept = {
        key: value for key, value in sizes.items() if key not in given and (key == "eval.limit" or not given & SIZES)
    }
    times = ", ".join(f"{name} {duration(seconds)}" for name, seconds in fit.seconds.items())
    console.print(
        f"A step takes {pace.step:.1f} s here, so: {fit.steps} steps, {fit.questions} questions a task ({times}).",
        soft_wrap=True,
    )
    chosen = [f"{key}={value}" for key, value in kept.items()]
    again = [part for text in [*overrides, *chosen] for part in ("--set", text)]
    which = [] if recipe == "quickstart" else ["--recipe", recipe]
    console.print(f"The same again: {command_line('quickstart', *which, '--minutes', 0, *again)}", soft_wrap=True)
    return chosen


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        console.print(line, soft_wrap=True)


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

    questions = min(ABLATION_LIMIT, settings.eval.limit or ABLATION_LIMIT)
    overrides = {"train.max_steps": steps, "eval.limit": questions}
    if not settings.data.streaming:
        overrides["data.limit"] = steps * settings.train.batch_size * settings.train.gradient_accumulation
    changes = {"ablation.seeds": [settings.seed], "ablation.overrides": overrides}
    return altered(settings, changes.items(), where="quickstart")
