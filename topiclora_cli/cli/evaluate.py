"""`topiclora eval`: the tuned model beside its base, by lm-evaluation-harness."""

from contextlib import ExitStack
from typing import Annotated

import typer

from topiclora_cli.cli import complete, eval_tasks
from topiclora_cli.cli.console import TerminalProgress, console
from topiclora_cli.cli.eval_models import evaluate_models
from topiclora_cli.cli.eval_options import EVAL_OPTIONS
from topiclora_cli.cli.keyed import with_keys
from topiclora_cli.cli.options import NameOption, RunOption, SetOption, hold_in_first, open_trained
from topiclora_cli.cli.prefetch import prefetch_data
from topiclora_cli.cli.studies import StudyOptions, with_studies
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.runs.processes import leave, process_count

app = typer.Typer(invoke_without_command=True, subcommand_metavar="[COMMAND]")
app.command("tasks")(eval_tasks.tasks)


@app.callback()
@with_keys(EVAL_OPTIONS)
@with_studies
def evaluate(
    context: typer.Context,
    changes: list[str],
    studies: StudyOptions,
    run: RunOption = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            autocompletion=complete.runs,
            metavar="MODEL",
            help="Put these side by side: `base`, a run, an export, a checkpoint, an adapter's folder, or a model. May "
            "be repeated; the first is what the others are compared with.",
        ),
    ] = None,
    reuse: Annotated[
        bool | None,
        typer.Option(
            "--reuse/--fresh",
            help="Take every score kept of the same model and questions, or none (default: every one, but the tuned "
            "model is scored anew where this very evaluation was finished before).",
        ),
    ] = None,
    prefetch: Annotated[
        bool,
        typer.Option("--prefetch", help="Score nothing: fill --datasets-dir from the hub with what the tasks read."),
    ] = False,
    name: NameOption = None,
    overrides: SetOption = None,
) -> None:
    """Evaluate a run's adapter and its base model on the same questions.

    In several processes under torchrun or accelerate launch.
    """
    if context.invoked_subcommand is not None:
        if changes or run is not None or name is not None:
            raise TopicLoraError(
                f"Options before {context.invoked_subcommand} are those of an evaluation.",
                f"Put them after it: topiclora eval {context.invoked_subcommand} --help says which there are.",
            )
        return
    if prefetch:
        prefetch_data(run, changes)
        return
    if studies.asked and (model or process_count() > 1):
        raise _not_studied()
    if model:
        evaluate_models(model, run, changes, name=name, reuse=reuse)
        return
    settings, directory = open_trained(run, changes)
    studies = studies.filled_in(settings.eval)
    if studies.asked and process_count() > 1:
        raise _not_studied()
    studies.check()
    from topiclora_cli.reporting.by_entropy import by_entropy_tables
    from topiclora_cli.reporting.by_topic import by_topic_tables
    from topiclora_cli.reporting.drawn import as_rich
    from topiclora_cli.reporting.scores import eval_table
    from topiclora_cli.stages.evaluate import evaluate as evaluate_stage

    with ExitStack() as held:
        held.callback(leave)
        hold_in_first(held, directory)
        result = evaluate_stage(settings, directory, TerminalProgress(), name=name, reuse=reuse)
    if not settings.eval.predict_only:
        for table in (eval_table(result), *by_topic_tables(result.by_topic), *by_entropy_tables(result.by_entropy)):
            console.print(as_rich(table))
    what = "Answers" if settings.eval.predict_only else "Results"
    console.print(f"{what}: {directory.path / 'eval' / result.name}", soft_wrap=True)
    if studies.asked:
        with directory.lock():
            studies.run(settings, directory, result.name)
    if result.failed:
        raise TopicLoraError(
            f"Not scored: {', '.join(result.failed)}.", "The tracebacks lie beside the results of the others."
        )


def _not_studied() -> TopicLoraError:
    return TopicLoraError(
        "--routing and --probe are about one run, in one process.", "Leave out --model, and start without torchrun."
    )
