"""One table, and what it looks like in Markdown, in HTML, as CSV and in LaTeX; drawn.py draws it in the terminal.

Whoever reports something fills a `Table` with text once; each format says nothing that another leaves out.
"""

import csv
import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

_MINUS = re.compile(r"(?<![\w.])-(?=\d)")  # before a number, not within a word or a range of versions
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    **{"±": r"$\pm$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "×": r"$\times$", "°": r"$^\circ$", "−": "$-$"},
    **{"<": "$<$", ">": "$>$", "≤": r"$\leq$", "≥": r"$\geq$", "|": r"$|$"},
}


@dataclass(frozen=True)
class Cell:
    """A cell's text, strong or not, `indent` steps to the right; in a heat map, with a shade from 0 to 1."""

    text: str
    strong: bool = False
    indent: int = 0
    shade: float | None = None


@dataclass(frozen=True)
class Column:
    """A column's heading and the side its cells stand at; without wrap it is never broken in the terminal."""

    heading: str
    align: Literal["left", "right"] = "left"
    wrap: bool = True


@dataclass(frozen=True)
class Table:
    """Rows of as many cells as there are columns, under a title, above a note; either may be empty.

    The first cell of a row names it. A table all of whose headings are empty has none. Raises ValueError for a row of
    another length.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    note: str = ""

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"Every row of {self.title!r} needs {len(self.columns)} cells.")

    @property
    def headed(self) -> bool:
        """Whether any column has a heading."""
        return any(column.heading for column in self.columns)


def columns(*headings: str, right: int | None = None) -> list[Column]:
    """Columns of these headings; from number `right` on, counted from 0, their cells stand at the right."""
    return [Column(h, "left" if right is None or i < right else "right") for i, h in enumerate(headings)]


def row(*texts: object, strong: bool = False) -> list[Cell]:
    """A row of cells, all strong or none; what is a Cell already stays as it is."""
    return [text if isinstance(text, Cell) else Cell(str(text), strong=strong) for text in texts]


def facts(title: str, values: Sequence[tuple[str, str]], *, note: str = "") -> Table:
    """A table without headings, a name and its value in each row."""
    return Table(title, columns("", ""), [row(*pair) for pair in values], note)


def as_markdown(table: Table) -> str:
    """The table in Markdown as GitHub reads it, ending in a line break; the title is a line of its own."""
    rules = ["---:" if column.align == "right" else "---" for column in table.columns]
    lines = [
        [_markdown(column.heading) for column in table.columns],
        rules,
        *([_markdown_cell(cell) for cell in cells] for cells in table.rows),
    ]
    title = f"**{_markdown(table.title)}**\n\n" if table.title else ""
    note = f"\n{table.note}\n" if table.note else ""
    return title + "".join(f"| {' | '.join(line)} |\n" for line in lines) + note


def as_html(table: Table) -> str:
    """The table as an HTML element, its title the caption, every text escaped."""
    head = "".join(_html_cell("th", each, Cell(""), html.escape(each.heading), scope="col") for each in table.columns)
    parts = ["<table>"]
    if table.title:
        parts.append(f"<caption>{html.escape(table.title)}</caption>")
    if table.headed:
        parts.append(f"<thead><tr>{head}</tr></thead>")
    parts.append("<tbody>")
    parts += [f"<tr>{_html_row(table.columns, cells)}</tr>" for cells in table.rows]
    parts.append("</tbody>\n</table>")
    if table.note:
        parts.append(f'<p class="note">{html.escape(table.note)}</p>')
    return "\n".join(parts) + "\n"


def as_csv(table: Table) -> str:
    """Headings and rows as CSV; title, note and emphasis are left out."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if table.headed:
        writer.writerow([column.heading for column in table.columns])
    writer.writerows([cell.text for cell in cells] for cells in table.rows)
    return text.getvalue()


def as_latex(table: Table) -> str:
    """The table as a float in LaTeX, for the package booktabs."""
    sides = "".join(column.align[0] for column in table.columns)
    lines = [r"\begin{table}", r"\centering"]
    if table.title:
        lines.append(f"\\caption{{{_latex(table.title)}}}")
    lines += [f"\\begin{{tabular}}{{{sides}}}", r"\toprule"]
    if table.headed:
        lines += [" & ".join(_latex(column.heading) for column in table.columns) + r" \\", r"\midrule"]
    lines += [" & ".join(map(_latex_cell, cells)) + r" \\" for cells in table.rows]
    lines += [r"\bottomrule", r"\end{tabular}"]
    if table.note:
        lines.append(f"\\par\\smallskip\\footnotesize {_latex(table.note)}")
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _markdown(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "\\<").replace("\n", " ")


def _markdown_cell(cell: Cell) -> str:
    text = "- " * cell.indent + _markdown(cell.text)
    return f"**{text}**" if cell.strong and text else text


def _html_row(columns: Sequence[Column], cells: Sequence[Cell]) -> str:
    first = _html_cell("th", columns[0], cells[0], html.escape(cells[0].text), scope="row")
    rest = zip(columns[1:], cells[1:], strict=True)
    return first + "".join(_html_cell("td", column, cell, html.escape(_typeset(cell.text))) for column, cell in rest)


def _html_cell(tag: str, column: Column, cell: Cell, text: str, scope: str = "") -> str:
    kinds = [*(["right"] if column.align == "right" else []), *(["shade"] if cell.shade is not None else [])]
    styles = [f"--v:{cell.shade:.2f}"] if cell.shade is not None else []
    styles += [f"--indent:{cell.indent}"] if cell.indent else []
    attributes = {"scope": scope, "class": " ".join(kinds), "style": ";".join(styles)}
    opening = " ".join([tag, *(f'{name}="{value}"' for name, value in attributes.items() if value)])
    return f"<{opening}>{f'<strong>{text}</strong>' if cell.strong else text}</{tag}>"


def _typeset(text: str) -> str:
    """With a dash for nothing, and signs of minus as wide as those of plus."""
    return "–" if text == "-" else _MINUS.sub("−", text)


def _latex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in _MINUS.sub("−", text).replace("\n", " "))


def _latex_cell(cell: Cell) -> str:
    text = _latex(cell.text)
    text = f"\\textbf{{{text}}}" if cell.strong and text else text
    return f"\\hspace{{{cell.indent}em}}{text}" if cell.indent else text
