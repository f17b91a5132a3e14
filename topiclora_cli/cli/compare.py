"""`topiclora compare`: runs on the same questions."""

from pathlib import Path
from typing import Annotated

import typer

from topiclora_cli.cli import complete
from topiclora_cli.cli.console import console
from topiclora_cli.cli.options import listed


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(autocompletion=complete.runs, help="Runs, RUN:EVALUATION, or output folders of lm-eval's."),
    ],
    metric: Annotated[
        str | None, typer.Option("--metric", "-m", help="Metric (default: the evaluation's own).")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option("--baseline", help="`base`, or a run (default: the first run).")
    ] = None,
    tasks: Annotated[str | None, typer.Option("--tasks", "-t", help="Comma-separated tasks (default: all).")] = None,
    show_flips: Annotated[
        int, typer.Option("--show-flips", min=0, help="Show so many questions that one side alone answered rightly.")
    ] = 0,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write the rows to this file as CSV.")] = None,
    latex: Annotated[Path | None, typer.Option("--latex", help="Write the tables to this file in LaTeX.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Write the tables in Markdown.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in place of tables.")] = False,
) -> None:
    """Compare runs question by question, with intervals and tests of the differences."""
    from topiclora_cli.evaluation.comparison.compare import compare as compare_runs
    from topiclora_cli.reporting.comparison import all_rows, comparison_table, flips_table
    from topiclora_cli.reporting.comparison import as_json as comparisons_as_json
    from topiclora_cli.reporting.drawn import as_rich
    from topiclora_cli.reporting.table import as_csv, as_latex, as_markdown
    from topiclora_cli.runs.files import write_text

    found = compare_runs(runs, baseline=baseline, metric=metric, tasks=listed(tasks or ""), show_flips=show_flips)
    scores = [comparison_table(each) for each in found]
    flips = [flips_table(each) for each in found if each.flips]
    if csv is not None:
        write_text(csv, as_csv(all_rows(found)))
    if latex is not None:
        write_text(latex, "\n".join(map(as_latex, scores)))
    if markdown is not None:
        write_text(markdown, "\n".join(map(as_markdown, [*scores, *flips])))
    if as_json:
        typer.echo(comparisons_as_json(found))
        return
    for table in (*scores, *flips):
        console.print(as_rich(table))
