"""Figures of cells as people read them, and which of them is the best."""

from collections.abc import Sequence

from topiclora_cli.recipe.spelling import short_name
from topiclora_cli.reporting.formats import measure
from topiclora_cli.runs.results.ablation import CellScore, Difference, Standing
from topiclora_cli.runs.results.interval import Interval
from topiclora_cli.runs.results.record import Settings

STARS = "Stars: p < 0.05 *, 0.01 **, 0.001 ***, after Holm's correction."
_LEVELS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))
_ALIKE = 1e-9


def spread(mean: float, deviation: float | None, unit: str) -> str:
    """A mean with its standard deviation over seeds, where there are several."""
    text = measure(mean, unit)
    return text if deviation is None else f"{text} ± {measure(deviation, unit)}"


def ends(found: Interval, unit: str, *, sign: int = 1) -> str:
    """A difference, or with sign -1 the other way round, with its interval."""
    texts = ", ".join(measure(end, unit) for end in sorted((sign * found.low, sign * found.high)))
    return f"{measure(sign * found.mean, unit, signed=True)} [{texts}]"


def p_value(value: float | None) -> str:
    """Three decimals, as far as they say anything, or a dash."""
    return "-" if value is None else "<0.001" if value < 0.0005 else f"{value:.3f}"


def stars(found: Difference | None) -> str:
    """How clear a difference is, of all that are tested."""
    p = found.p_holm if found is not None else None
    return "" if p is None else next((mark for level, mark in _LEVELS if p < level), "")


def won_and_rank(standing: Standing) -> tuple[str, str]:
    """The share of pairs won in %, and the mean rank, or dashes."""
    rate, rank = standing.win_rate, standing.rank
    return "-" if rate is None else f"{100 * rate:.0f}", "-" if rank is None else f"{rank:.1f}"


def values(settings: Settings) -> str:
    """Settings in a line."""
    shown = (
        f"{short_name(key)} {value:g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in settings.items()
    )
    return ", ".join(shown) or "-"


def best(scores: Sequence[float | None], *, higher_is_better: bool | None) -> list[bool]:
    """Which of the scores are the best, none where nobody knows which way that is."""
    known = [score for score in scores if score is not None]
    if higher_is_better is None or len(known) < 2:
        return [False] * len(scores)
    first = max(known) if higher_is_better else min(known)
    return [score is not None and abs(score - first) <= _ALIKE for score in scores]


def compared(scores: Sequence[CellScore]) -> list[CellScore]:
    """The cells that are set beside one another."""
    return [score for score in scores if not score.odd]
