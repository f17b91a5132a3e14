"""Several runs in one table: a column each, or one for all where they say the same."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from topiclora_cli.reporting.material import Material
from topiclora_cli.reporting.table import Column, Table, row

Facts = Mapping[str, str]


def beside(runs: Sequence[Material], facts: Callable[[Material], Facts], *, title: str = "") -> Table | None:
    """Facts of every run, side by side; a dash where one has none. None where no run has any."""
    found = [facts(run) for run in runs]
    names = ordered(name for each in found for name in each)
    if not names:
        return None
    if all(each == found[0] for each in found):
        heading = "" if len(runs) == 1 else "all runs"
        return Table(title, [Column(""), Column(heading)], [row(name, found[0][name]) for name in names])
    columns = [Column(""), *(Column(run.label) for run in runs)]
    return Table(title, columns, [row(name, *(each.get(name, "-") for each in found)) for name in names])


def grouped(runs: Sequence[Material], make: Callable[[Material], Table | None]) -> list[Table]:
    """A table of each run that has one; runs whose tables are equal share it, titled with their names."""
    of: dict[int, list[str]] = {}
    tables: list[Table] = []
    for run in runs:
        if (table := make(run)) is not None:
            if table not in tables:
                tables.append(table)
            of.setdefault(tables.index(table), []).append(run.label)
    if len(runs) == 1:
        return tables
    names = ["all runs" if len(of[i]) == len(runs) else ", ".join(of[i]) for i in range(len(tables))]
    return [
        replace(table, title=f"{table.title} ({name})" if table.title else name)
        for table, name in zip(tables, names, strict=True)
    ]


def ordered(names: Iterable[str]) -> list[str]:
    """Names without repetition, in the order in which they first come."""
    return list(dict.fromkeys(names))
