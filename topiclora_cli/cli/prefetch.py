"""`topiclora eval --prefetch`: data sets of tasks fetched where there is a network, for where there is none."""

from pathlib import Path

from topiclora_cli.cli.console import console
from topiclora_cli.cli.options import open_run

_NO_RUN = b"name: prefetch\nmodel: {name: none}\n"  # a machine with a network need have no run


def prefetch_data(run: Path | None, changes: list[str]) -> None:
    """Fetch what the tasks read that `changes` name, else those of the run's recipe."""
    from topiclora_cli.evaluation.prefetch import prefetch
    from topiclora_cli.recipe.load import read_recipe
    from topiclora_cli.stages.training_data import eval_request

    named = any(change.startswith("eval.tasks=") for change in changes)
    settings = read_recipe(_NO_RUN, changes, where="--prefetch") if run is None and named else open_run(run, changes)[0]
    copies = prefetch(eval_request(settings), lambda text: console.print(text, soft_wrap=True))
    console.print(f"At hand in {settings.eval.datasets_dir}: {len(copies)} data sets.", soft_wrap=True)
