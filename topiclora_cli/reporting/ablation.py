"""The grid's outcome on disk: tables to read and JSON to compute with."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from topiclora_cli.recipe import FULL, Recipe
from topiclora_cli.recipe.spelling import short_name
from topiclora_cli.reporting.formats import measure, metric_label, number
from topiclora_cli.reporting.table import Table, as_markdown, columns, row
from topiclora_cli.runs.files import write_text
from topiclora_cli.runs.results.ablation import LEVELS, CellScore, GridScores, Interval
from topiclora_cli.runs.results.files import write_result
from topiclora_cli.runs.results.record import Settings

_OF = {"tasks": "mean of tasks", "questions": "all questions"}


@dataclass(frozen=True)
class Extent:
    """How many cells a grid has, how many runs they are over their seeds, and how many of these are scored."""

    cells: int
    runs: int
    scored: int


def write_report(
    folder: Path, scores: Sequence[CellScore], extent: Extent, recipes: Sequence[Recipe], *, reference: str
) -> None:
    """Write report.md and results.json into the grid's folder, of all that is finished so far.

    recipes: those of the grid's cells. reference: the cell that the others are compared with, beside `full`.
    """
    parts = [_heading(extent), _scores(scores)]
    parts += [_differences(scores, name, minus_it=name != FULL) for name in dict.fromkeys((reference, FULL))]
    parts += [_tuning(scores), _note(recipes)]
    write_text(folder / "report.md", "\n".join(part for part in parts if part))
    write_result(folder / "results.json", GridScores(tuple(scores)))


def _heading(extent: Extent) -> str:
    state = "all" if extent.scored == extent.runs else f"{extent.scored} of {extent.runs}"
    return f"# Ablation\n\nScored: {state} runs of {extent.cells} cells.\n"


def _scores(scores: Sequence[CellScore]) -> str:
    label = metric_label(scores[0].metric, scores[0])
    others = list(dict.fromkeys(name for s in scores for name in s.measures if name != s.metric))
    about = (
        f"{label}: mean over tasks, mean and standard deviation over seeds; `vs full` is paired by seed.\n"
        "`KL` is the routing loss's last training value, `MI` the mutual information of topic and expert in nats.\n"
    )
    columns = ["cell", "seeds", "score", "deviation", "vs full"]
    columns += [part for name in others for part in (f"{name} ↓", "deviation")]
    tuned = any(s.tuned for s in scores)
    columns += ["KL", "MI", "trainable", *(["chosen"] if tuned else [])]
    rows = []
    for s in scores:
        row = [s.name, str(s.seeds), measure(s.mean, s.unit), measure(s.deviation, s.unit)]
        row.append(measure(s.against_full, s.unit, signed=True))
        for name in others:
            found = s.measures.get(name)
            row += [
                number(part["tasks"] if part else None) for part in (found and found.mean, found and found.deviation)
            ]
        row += [number(s.kl), number(s.mutual_information), "-" if s.parameters is None else f"{s.parameters:,}"]
        rows.append([*row, *([_values(s.tuned)] if tuned else [])])
    return f"{about}\n{_table(columns, rows)}"


def _differences(scores: Sequence[CellScore], name: str, *, minus_it: bool) -> str:
    """Each cell minus the one called `name`, or the other way round."""
    rows, columns = [], []
    for s in scores:
        found = {metric: each.against[name] for metric, each in s.measures.items() if name in each.against}
        if found:
            columns = [f"{metric}, {_OF[level]}" for metric in found for level in LEVELS]
            cells = [
                _interval(found[metric][level], s.measures[metric].unit, sign=1 if minus_it else -1)
                for metric in found
                for level in LEVELS
            ]
            rows.append([s.name, *cells])
    if not rows:
        return ""
    title = f"Each cell minus {name}" if minus_it else f"{name} minus each cell"
    about = "On the same questions and seeds, with 95 % intervals: questions by bootstrap, seeds by Student's t.\n"
    return f"## {title}\n\n{about}\n{_table(['cell', *columns], rows)}"


def _interval(found: Interval, unit: str, *, sign: int) -> str:
    ends = ", ".join(measure(end, unit) for end in sorted((sign * found.low, sign * found.high)))
    return f"{measure(sign * found.mean, unit, signed=True)} [{ends}]"


def _tuning(scores: Sequence[CellScore]) -> str:
    tuned = [s for s in scores if s.tried]
    if not tuned:
        return ""
    rows = [
        [s.name, _values(each.values), _loss(each.eval_loss), "yes" if each.values == s.tuned else ""]
        for s in tuned
        for each in s.tried
    ]
    return (
        "## Values tried\n\nThe loss on examples held out of training, in nats per answer token, at the first seed.\n\n"
        f"{_table(['cell', 'values', 'held-out loss', 'chosen'], rows)}"
        + "".join(f"\n{line}\n" for line in warnings(tuned))
    )


def warnings(scores: Sequence[CellScore]) -> Iterator[str]:
    """A line for every value that was best at the end of its list."""
    for s in scores:
        for key in s.edges:
            yield f"Warning: {s.name} is best at the end of what was tried: {key} {s.tuned[key]:g}. Try one beyond it."


def _note(recipes: Sequence[Recipe]) -> str:
    trains = [recipe.train for recipe in recipes]
    lengths = sorted({f"{t.max_steps} steps" if t.max_steps else f"{t.epochs:g} epochs" for t in trains})
    return f"Trained for {', '.join(lengths)}; evaluated on {', '.join(recipes[0].eval.tasks)}.\n"


def _values(values: Settings) -> str:
    return (
        ", ".join(
            f"{short_name(key)} {value:g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in values.items()
        )
        or "-"
    )


def _loss(value: float | None) -> str:
    return "diverged" if value is None else f"{value:.4f}"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return as_markdown(Table("", columns(*headings), [row(*cells) for cells in rows]))
