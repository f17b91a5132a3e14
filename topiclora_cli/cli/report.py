"""`topiclora report`: one page of a run, or of several side by side."""

from pathlib import Path
from typing import Annotated

import typer

from topiclora_cli.cli import complete
from topiclora_cli.cli.console import console
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.runs.commands import RUNS


def report(
    runs: Annotated[
        list[Path] | None, typer.Argument(autocompletion=complete.runs, help="The runs (default: the latest).")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write the page here (default: RUN/report.html).")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Write it as Markdown here.")] = None,
) -> None:
    """Make one self-contained page of a run, or of several side by side, from their files alone."""
    if runs and len(runs) > 1 and html is None and markdown is None:
        raise TopicLoraError("Several runs have no one folder for their page.", "Say where: --html page.html")
    from topiclora_cli.reporting.compose import compose
    from topiclora_cli.reporting.markdown import markdown as as_markdown
    from topiclora_cli.reporting.page import page
    from topiclora_cli.runs.files import write_text
    from topiclora_cli.runs.listing import latest_run
    from topiclora_cli.runs.run import RunDir

    found = [RunDir(run) for run in runs] if runs else [latest_run(RUNS)]
    if html is None and markdown is None:
        html = found[0].path / "report.html"
    composed = compose(found)
    for path, write in ((html, page), (markdown, as_markdown)):
        if path is not None:
            write_text(path, write(composed))
            console.print(f"Report: {path}", soft_wrap=True)
