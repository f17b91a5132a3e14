"""A report in Markdown: what a reader needs without the terminal that made it."""

from collections.abc import Sequence

from topiclora_cli.reporting.chart import courses_table
from topiclora_cli.reporting.compose import compose
from topiclora_cli.reporting.sections import Code, Curves, Intervals, Part, Picture, Plot, Report, Section, Text
from topiclora_cli.reporting.table import Table, as_markdown
from topiclora_cli.runs.files import write_text
from topiclora_cli.runs.run import RunDir


def write_report(run: RunDir) -> None:
    """Write `report.md` from the run's finished stages."""
    write_text(run.path / "report.md", markdown(compose([run])))


def markdown(report: Report) -> str:
    """The report as one Markdown text; a picture is linked as it lies in the folder of a single run."""
    blocks = [f"# {report.title}\n", f"{report.lead}\n"]
    single = len(report.runs) == 1
    return "\n".join([*blocks, *(section_markdown(section, single=single) for section in report.sections)])


def section_markdown(section: Section, *, single: bool = True) -> str:
    """A section under its heading; single: of one run."""
    blocks = [f"## {section.title}\n"]
    curves = [part for part in section.parts if isinstance(part, Curves)]
    courses = as_markdown(_courses(curves, single=single)) if curves else ""
    return "\n".join(
        [*blocks, *(t for part in section.parts if (t := _part(part, courses, curves[:1], single=single)))]
    )


def _part(part: Part, courses: str, first: Sequence[Curves], *, single: bool) -> str:
    """A part as Markdown; all curves of a section stand in one table, `courses`, where the first of them is."""
    match part:
        case Text():
            return f"{part.text}\n"
        case Code():
            return f"```\n{part.text.rstrip()}\n```\n"
        case Table():
            return as_markdown(part)
        case Picture():
            return f"![{part.alt}]({part.relative})\n" if single else ""
        case Curves():
            return courses if part in first else ""
        case Intervals() | Plot():
            return ""  # of numbers that stand in a table beside them


def _courses(curves: list[Curves], *, single: bool) -> Table:
    return courses_table(
        {
            each.title if single else f"{each.title}, {label}": [value for _, value in points]
            for each in curves
            for label, points in each.lines.items()
        }
    )
