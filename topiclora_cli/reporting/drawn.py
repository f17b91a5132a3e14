"""The one table in the terminal: no word is broken and no value cut short where there is any room for it.

Where the longest words of all columns do not stand side by side, the table comes in parts, each with the names of its
rows.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from topiclora_cli.reporting.table import Cell, Table

if TYPE_CHECKING:
    import rich.table
    from rich.text import Text

_SHADES = (("  ", "dim"), ("░░", "blue"), ("▒▒", "cyan"), ("▓▓", "green"), ("██", "bold yellow"))
_ROOMY = 6  # columns


class as_rich:
    """The table for a rich console, which tells it how wide the terminal is."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def __rich_console__(self, console: Any, options: Any) -> Iterator["rich.table.Table"]:
        for part in in_parts(self.table, options.max_width):
            yield _drawn(part, _widths(part, options.max_width))


def in_parts(table: Table, width: int) -> list[Table]:
    """The table, or as few tables of some of its columns each as have room for their longest words in `width`."""
    if not table.headed:
        return [table]
    groups: list[list[int]] = [[0]]
    for column in range(1, len(table.columns)):
        if len(groups[-1]) > 1 and _taken(table, [*groups[-1], column]) > width:
            groups.append([0])
        groups[-1].append(column)
    last = len(groups) - 1
    return [
        Table(
            table.title if number == 0 else "",
            [table.columns[column] for column in group],
            [[cells[column] for column in group] for cells in table.rows],
            table.note if number == last else "",
        )
        for number, group in enumerate(groups)
    ]


def _drawn(table: Table, widths: Sequence[int | None]) -> "rich.table.Table":
    import rich.table
    from rich.text import Text

    # Text, and no string, so that no console reads a bracket in it as markup.
    drawn = rich.table.Table(
        title=Text(table.title, style="table.title") if table.title else None,
        title_justify="left",
        caption=Text(table.note, style="table.caption") if table.note else None,
        caption_justify="left",
        box=None,
        # Many columns stand closer, which leaves names their room.
        collapse_padding=len(table.columns) > _ROOMY,
        show_header=table.headed,
    )
    for column, wide in zip(table.columns, widths, strict=True):
        # A word too long for its column goes on in the next line: names of tasks are told apart by their ends.
        overflow: Literal["fold", "ellipsis"] = "fold" if column.wrap else "ellipsis"
        heading = Text(column.heading)
        drawn.add_column(heading, justify=column.align, no_wrap=not column.wrap, overflow=overflow, width=wide)
    for cells in table.rows:
        drawn.add_row(*map(_rich_cell, cells))
    return drawn


def _widths(table: Table, width: int) -> Sequence[int | None]:
    """How wide each column is to be; None for all leaves it to rich, where there is room for everything or too little.

    Each has room for its longest word; what is left over goes to those that want more, the narrowest first.
    """
    everything = range(len(table.columns))
    least = [_least(table, column) for column in everything]
    wanted = [max(_lengths(table, column)) for column in everything]
    spare = width - _taken(table, everything)
    if spare < 0 or sum(wanted) - sum(least) <= spare:
        return [None] * len(least)
    widths = list(least)
    while spare and (narrow := [column for column in everything if widths[column] < wanted[column]]):
        widths[min(narrow, key=widths.__getitem__)] += 1
        spare -= 1
    # rich counts one space at the first column where columns stand closer, and draws two.
    return [widths[0] + (len(widths) > _ROOMY), *widths[1:]]


def _taken(table: Table, columns: Sequence[int]) -> int:
    """How wide these columns are at the least, with the spaces around them."""
    number = len(columns)
    return sum(_least(table, column) for column in columns) + (number + 1 if number > _ROOMY else 2 * number)


def _least(table: Table, column: int) -> int:
    """The longest of a column's words; where numbers stand, or nothing is to be broken, of its texts."""
    whole = table.columns[column].align == "right" or not table.columns[column].wrap
    heading = max(map(len, table.columns[column].heading.split()), default=0)
    cells = [_text(cells[column]) for cells in table.rows]
    words = cells if whole else [word for text in cells for word in text.split()]
    indent = max((2 * cells[column].indent for cells in table.rows), default=0)
    return max([heading, 1, *(len(word) + (0 if whole else indent) for word in words)])


def _lengths(table: Table, column: int) -> list[int]:
    return [len(table.columns[column].heading), *(len(_text(cells[column])) for cells in table.rows)]


def _text(cell: Cell) -> str:
    return _rich_cell(cell).plain


def _rich_cell(cell: Cell) -> "Text":
    from rich.text import Text

    if cell.shade is not None:
        # Every shade stands beside its number, so that it needs neither colour nor a legend.
        blocks, style = _SHADES[round(cell.shade * (len(_SHADES) - 1))]
        return Text(f"{blocks} {cell.text:>3}", style=style)
    return Text("  " * cell.indent + cell.text, style="bold" if cell.strong else "")
