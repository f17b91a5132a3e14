"""`topiclora eval`: the tuned model beside its base, by lm-evaluation-harness."""

from pathlib import Path
from typing import Annotated

import typer

from topiclora_cli.cli.console import TerminalProgress, console
from topiclora_cli.cli.options import NameOption, RunOption, SetOption, assignment, listed, open_trained
from topiclora_cli.errors import TopicLoraError


def evaluate(
    run: RunOption = None,
    tasks: Annotated[
        str | None,
        typer.Option("--tasks", "-t", help="Comma-separated lm-eval tasks (default: the recipe's)."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Questions per task.")] = None,
    include_path: Annotated[
        Path | None, typer.Option("--include-path", help="Folder with lm-eval task files of your own.")
    ] = None,
    num_fewshot: Annotated[
        int | None, typer.Option("--num-fewshot", min=0, help="Examples shown before each question.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1)] = None,
    metrics: Annotated[
        str | None,
        typer.Option("--metrics", "-m", help="Comma-separated metrics; each task goes by the first that it has."),
    ] = None,
    base: Annotated[bool | None, typer.Option("--base/--no-base", help="Measure the base model too.")] = None,
    reuse: Annotated[
        bool | None,
        typer.Option(
            "--reuse/--fresh",
            help="Take every score kept of the same model and questions, or none (default: every one, but the tuned "
            "model is scored anew where this very evaluation was finished before).",
        ),
    ] = None,
    name: NameOption = None,
    overrides: SetOption = None,
) -> None:
    """Evaluate a run's adapter and its base model on the same questions."""
    given = {
        "tasks": None if tasks is None else listed(tasks),
        "limit": limit,
        "include_path": include_path,
        "num_fewshot": num_fewshot,
        "batch_size": batch_size,
        "metrics": None if metrics is None else listed(metrics),
        "base": base,
    }
    changes = [
        *(overrides or []),
        *(assignment(f"eval.{key}", value) for key, value in given.items() if value is not None),
    ]
    settings, directory = open_trained(run, changes)
    from topiclora_cli.reporting.drawn import as_rich
    from topiclora_cli.reporting.scores import eval_table
    from topiclora_cli.stages.evaluate import evaluate as evaluate_stage

    with directory.lock():
        result = evaluate_stage(settings, directory, TerminalProgress(), name=name, reuse=reuse)
    console.print(as_rich(eval_table(result)))
    console.print(f"Results: {directory.path / 'eval' / result.name}", soft_wrap=True)
    if result.failed:
        raise TopicLoraError(
            f"Not scored: {', '.join(result.failed)}.", "The tracebacks lie beside the results of the others."
        )
