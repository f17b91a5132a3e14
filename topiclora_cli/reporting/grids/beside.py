"""Cells beside the reference: differences with their intervals and tests, pairs that are won, and ranks."""

from collections.abc import Sequence

from topiclora_cli.recipe import FULL
from topiclora_cli.reporting.formats import metric_label
from topiclora_cli.reporting.grids.words import STARS, compared, ends, p_value, stars
from topiclora_cli.reporting.sections import Estimate, Intervals, Part, Section, Text
from topiclora_cli.reporting.table import Cell, Table, columns, row
from topiclora_cli.runs.results.ablation import LEVELS, CellScore, Difference, GridScores

_FEW = 10  # seeds
_KINDS = {
    "permutation": "of one seed by flipping signs",
    "bootstrap": "of several seeds by draws as of the interval",
}
_OF = {"tasks": "mean of tasks", "questions": "all questions"}


def differences(found: GridScores) -> list[Section]:
    """Each cell minus the reference, and `full` minus each cell; none where no question was kept."""
    others = dict.fromkeys((found.reference, FULL))
    sections = [_against(found.cells, name, sign=1 if name == found.reference else -1) for name in others]
    return [section for section in sections if section]


def standings(found: GridScores) -> Section | None:
    """Pairs that each cell wins of the reference, and mean ranks."""
    cells = [s for s in compared(found.cells) if s.standing.rank is not None or s.standing.win_rate is not None]
    if not cells:
        return None
    ranked = sorted(cells, key=lambda s: s.standing.rank if s.standing.rank is not None else float("inf"))
    first = next((s.standing for s in cells if s.standing.rank is not None), None)
    least = min((s.standing.rank for s in cells if s.standing.rank is not None), default=None)
    rows = []
    for s in ranked:
        stands, rate = s.standing, s.standing.win_rate
        pairs = [stands.wins, stands.ties, stands.losses] if rate is not None else ["-"] * 3
        rank = "-" if stands.rank is None else f"{stands.rank:.2f}"
        share = "-" if rate is None else f"{100 * rate:.1f}"
        rows.append(row(s.name, Cell(rank, strong=stands.rank is not None and stands.rank == least), share, *pairs))
    about = (
        f"Win rate: the share of pairs of task and seed in which a cell is better than {found.reference}, a tie "
        "counting half."
    )
    if first is not None:
        about += (
            f" Rank: 1 is best and ties share theirs, a mean over the {first.blocks} pairs of task and seed that all "
            f"{first.among} cells have."
        )
    else:
        about += " There are no ranks before all cells share a seed."
    heads = ("cell", "rank", "win rate, %", "wins", "ties", "losses")
    return Section("Ranks and wins over tasks", [Text(about), Table("", columns(*heads, right=1), rows)])


def _against(scores: Sequence[CellScore], other: str, *, sign: int) -> Section | None:
    lines = []
    for s in scores:
        found = {metric: each.against[other] for metric, each in s.measures.items() if other in each.against}
        if found:
            lines.append((s, found))
    if not lines:
        return None
    metrics = dict.fromkeys(metric for _, found in lines for metric in found)
    tests = [test for s, _ in lines if (test := s.against(other))]
    tested = any(test.p is not None for test in tests)
    rows = []
    for s, found in lines:
        cells = [
            ends(found[metric][level], s.measures[metric].unit, sign=sign) if metric in found else "-"
            for metric in metrics
            for level in LEVELS
        ]
        test = s.against(other)
        p, adjusted = (test.p, test.p_holm) if test else (None, None)
        told = [p_value(p), f"{p_value(adjusted)}{stars(test)}"] if tested else []
        rows.append(row(s.name, *cells, *told))
    heads = [f"{metric}, {_OF[level]}" for metric in metrics for level in LEVELS]
    table = Table("", columns("cell", *heads, *(["p", "p Holm"] if tested else [])), rows)
    parts: list[Part] = [Text(_about(tests, tested=tested)), table]
    parts += _drawn(scores, other) if sign == 1 else []
    return Section(f"Each cell minus {other}" if sign == 1 else f"{other} minus each cell", parts)


def _about(tests: Sequence[Difference], *, tested: bool) -> str:
    text = "On the same questions and seeds, with 95 % intervals: questions by bootstrap, seeds by Student's t."
    counts = {test.seeds for test in tests}
    if 1 in counts:
        text += " One seed has an interval over questions alone; another seed may differ by more."
    if few := sorted(count for count in counts if 1 < count < _FEW):
        text += f" {' or '.join(map(str, few))} seeds say little of what other seeds would do."
    if tested:
        kinds = " and ".join(dict.fromkeys(_KINDS[test.test] for test in tests if test.test))
        family = max(test.family for test in tests)
        text += (
            f" p: two-sided, of the mean of tasks, {kinds}; adjusted by Holm over the "
            f"{family} cells of the grid beside the reference, those not finished yet among them. {STARS}"
        )
    return text


def _drawn(scores: Sequence[CellScore], other: str) -> list[Part]:
    found = {s.name: each for s in scores if (each := s.against(other))}
    if not found:
        return []
    some = next(s for s in scores if s.name in found)
    label = metric_label(some.metric, some)
    rows = {name: {"difference": Estimate(each.mean, None, (each.low, each.high))} for name, each in found.items()}
    return [Intervals(f"{label}: each cell minus {other}, with 95 % intervals", some.unit, rows, signed=True)]
