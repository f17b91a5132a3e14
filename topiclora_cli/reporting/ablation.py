"""The grid's outcome on disk: a report to read, in Markdown and as a page, and sheets and JSON to compute with."""

from pathlib import Path

from topiclora_cli.reporting.grids.compose import edge_warnings as warnings
from topiclora_cli.reporting.grids.sheets import write_sheets
from topiclora_cli.reporting.markdown import markdown
from topiclora_cli.reporting.page import page
from topiclora_cli.reporting.sections import Report
from topiclora_cli.runs.files import write_text
from topiclora_cli.runs.results.ablation import GridScores
from topiclora_cli.runs.results.files import write_result

__all__ = ["warnings", "write_report"]

REPORT, PAGE, RESULTS = "report.md", "report.html", "results.json"


def write_report(folder: Path, found: GridScores, report: Report) -> None:
    """Write report.md, report.html, results.json, scores.csv, cells.csv and tables.tex into the grid's folder, of all
    that is finished so far.
    """
    write_text(folder / REPORT, markdown(report))
    write_text(folder / PAGE, page(report))
    write_result(folder / RESULTS, found)
    write_sheets(folder, found)
