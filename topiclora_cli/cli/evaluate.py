"""`topiclora eval`: the tuned model beside its base, by lm-evaluation-harness."""

import typer

from topiclora_cli.cli.console import TerminalProgress, console
from topiclora_cli.cli.eval_options import EVAL_OPTIONS
from topiclora_cli.cli.keyed import with_keys
from topiclora_cli.cli.options import NameOption, RunOption, SetOption, open_trained
from topiclora_cli.errors import TopicLoraError

app = typer.Typer(invoke_without_command=True, subcommand_metavar="[COMMAND]")


@app.callback()
@with_keys(EVAL_OPTIONS)
def evaluate(
    context: typer.Context,
    changes: list[str],
    run: RunOption = None,
    name: NameOption = None,
    overrides: SetOption = None,
) -> None:
    """Evaluate a run's adapter and its base model on the same questions."""
    if context.invoked_subcommand is not None:
        return
    settings, directory = open_trained(run, changes)
    from topiclora_cli.reporting.drawn import as_rich
    from topiclora_cli.reporting.scores import eval_table
    from topiclora_cli.stages.evaluate import evaluate as evaluate_stage

    with directory.lock():
        result = evaluate_stage(settings, directory, TerminalProgress(), name=name)
    if not settings.eval.predict_only:
        console.print(as_rich(eval_table(result)))
    what = "Answers" if settings.eval.predict_only else "Results"
    console.print(f"{what}: {directory.path / 'eval' / result.name}", soft_wrap=True)
    if result.failed:
        raise TopicLoraError(
            f"Not scored: {', '.join(result.failed)}.", "The tracebacks lie beside the results of the others."
        )
