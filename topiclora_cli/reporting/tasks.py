"""The tasks that there are to evaluate, as a table and as JSON."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from topiclora_cli.reporting.table import Table, columns, row

if TYPE_CHECKING:
    from topiclora_cli.evaluation.listing import Listed

_MOST = 3  # data sets of a group that are named
_AT_HAND = {True: "yes", False: "no", None: "?"}


def tasks_table(tasks: Sequence["Listed"], *, hidden: int = 0) -> Table:
    """Name, kind, data and whether that is at hand; hidden: how many are not listed because it is not."""
    rows = [row(task.name, task.output or task.kind, _data(task), _AT_HAND[task.at_hand]) for task in tasks]
    counts = Counter(task.kind for task in tasks)
    found = ", ".join(f"{count:,} {kind}{'s' * (count > 1)}" for kind, count in counts.items())
    more = f"{hidden:,} more need{'s' * (hidden == 1)} data that is not at hand" if hidden else ""
    note = "; ".join(filter(None, [found, more]))
    return Table("", columns("task", "kind", "data", "at hand"), rows, note=f"{note}.")


def tasks_json(tasks: Sequence["Listed"]) -> str:
    """The tasks as a list in JSON, each with where its data lies, or was looked for."""
    return json.dumps([_facts(task) for task in tasks], ensure_ascii=False, indent=2)


def _facts(task: "Listed") -> dict[str, object]:
    data = [
        {"name": each.name, "config": each.config, "place": str(each.place), "at_hand": each.at_hand}
        for each in task.data
    ]
    facts = {"name": task.name, "kind": task.kind, "output_type": task.output or None}
    return {**facts, "at_hand": task.at_hand, "data": data}


def _data(task: "Listed") -> str:
    if not task.data:
        return "made here" if task.ours else "see its code"
    configs: dict[str, list[str]] = {}
    for each in task.data:
        configs.setdefault(each.name, []).append(each.config or "")
    named = [f"{name} ({_several(parts)})" if any(parts) else name for name, parts in configs.items()]
    more = f" and {len(named) - _MOST} more" if len(named) > _MOST else ""
    return ", ".join(named[:_MOST]) + more


def _several(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{len(parts)} configurations"
