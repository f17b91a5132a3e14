"""`topiclora eval --model A --model B`: several models side by side."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from topiclora_cli.cli.console import TerminalProgress, console
from topiclora_cli.cli.options import hold_in_first, open_run
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.runs.processes import leave


def evaluate_models(
    models: Sequence[str], run: Path | None, changes: Sequence[str], *, name: str | None, reuse: bool | None
) -> None:
    """Put every model to the same questions and print one table; the first is what the others are beside."""
    from topiclora_cli.recipe import Recipe, altered, parse_override
    from topiclora_cli.reporting.drawn import as_rich
    from topiclora_cli.reporting.models import models_by_topic_tables, models_table
    from topiclora_cli.stages.contenders import BASE, base_named, owner
    from topiclora_cli.stages.evaluate_models import evaluate_models as stage

    owners = [found for found in map(owner, [str(run)] if run is not None else models) if found is not None]
    if owners or BASE in models:
        settings, directory = open_run(owners[0].path if owners else run, list(changes))
        parent = directory.path / "eval"
    else:
        directory, parent = None, Path("eval")
        plain = Recipe.model_validate({"name": "models", "model": {"name": base_named(models[0])}})
        settings = altered(plain, map(parse_override, changes), where="--set")
    with ExitStack() as held:
        held.callback(leave)
        hold_in_first(held, directory)
        result = stage(models, settings, parent, TerminalProgress(), name=name, reuse=reuse)
    for table in (models_table(result), *models_by_topic_tables(result)):
        console.print(as_rich(table))
    console.print(f"Results: {parent / result.name}", soft_wrap=True)
    if result.failed:
        raise TopicLoraError(
            f"Not scored: {', '.join(result.failed)}.", "The tracebacks lie beside the results of the others."
        )
