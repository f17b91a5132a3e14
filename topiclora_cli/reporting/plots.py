"""Scores over a number, what was varied or what it costs, as SVG that the page's style sheet colours."""

import math
from collections.abc import Sequence
from html import escape

from topiclora_cli.reporting.formats import measure
from topiclora_cli.reporting.sections import Plot, Spot
from topiclora_cli.reporting.svg import COLOURS, round_numbers, shown

_WIDTH, _HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 24, 16, 46
_WIDE = 20  # times the smallest, from which on a logarithm shows more
_LETTERS = 18


def plot_svg(plot: Plot) -> str:
    """Spots with whiskers; the strong ones of a plot that is not joined have their names and a line between them."""
    spots = [spot for each in plot.series.values() for spot in each]
    if not spots:
        return ""
    levels = [plot.level] if plot.level is not None else []
    heights: list[float] = [*(end for spot in spots for end in (spot.y, *(spot.ends or ()))), *levels]
    ticks = round_numbers(min(heights), max(heights))
    low, high = min(ticks[0], *heights), max(ticks[-1], *heights)
    xs = [spot.x for spot in spots]
    logarithmic = min(xs) > 0 and max(xs) / min(xs) >= _WIDE

    def bent(value: float) -> float:
        return math.log10(value) if logarithmic else value

    first, last = bent(min(xs)), bent(max(xs))

    def x(value: float) -> float:
        place = (bent(value) - first) / (last - first) if last > first else 0.5
        return _LEFT + 14 + place * (_WIDTH - _LEFT - _RIGHT - 28)

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - low) / ((high - low) or 1) * (_HEIGHT - _TOP - _BOTTOM)

    label = f"{plot.title}; the numbers stand in a table of this section."
    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">']
    for tick in ticks:
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text class="end" x="{_LEFT - 8}" y="{y(tick) + 4:.1f}">{shown(tick, plot.unit)}</text>')
    parts += [
        f'<line class="alarm" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(level):.1f}" y2="{y(level):.1f}"/>'
        for level in levels
    ]
    bottom = _HEIGHT - _BOTTOM
    for value in _marks(xs, logarithmic=logarithmic):
        mark = f'<text class="middle" x="{x(value):.1f}" y="{bottom + 18}">{value:.4g}</text>'
        parts.append(mark)
    scale = ", logarithmic" if logarithmic else ""
    parts.append(
        f'<text class="middle" x="{(_LEFT + _WIDTH) / 2:.0f}" y="{_HEIGHT - 8}">{escape(plot.across + scale)}</text>'
    )
    for number, each in enumerate(plot.series.values()):
        kind = f"c{number % COLOURS}"
        joined = sorted((spot for spot in each if plot.joined or spot.strong), key=lambda spot: (spot.x, spot.y))
        line = " ".join(f"{x(spot.x):.1f},{y(spot.y):.1f}" for spot in joined)
        parts.append(f'<polyline class="{kind}" points="{line}"/>' if len(joined) > 1 else "")
        for spot in each:
            parts += _spot(spot, x(spot.x), [y(end) for end in (spot.y, *(spot.ends or ()))], kind, plot)
    return "\n".join([*(part for part in parts if part), "</svg>"])


def _spot(spot: Spot, x: float, heights: Sequence[float], kind: str, plot: Plot) -> list[str]:
    y, *ends = heights
    plain = not plot.joined and not spot.strong
    said = escape(f"{spot.name}: {measure(spot.y, plot.unit)} at {spot.x:.6g}")
    parts = []
    if ends:
        parts.append(f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{ends[0]:.1f}" y2="{ends[1]:.1f}"/>')
    look = f"{kind} faint" if plain else kind
    parts.append(f'<circle class="{look}" cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{said}</title></circle>')
    if spot.strong and not plot.joined:
        left = x > _WIDTH / 2
        name = spot.name if len(spot.name) <= _LETTERS else f"{spot.name[: _LETTERS - 1]}…"
        place = f'class="end" x="{x - 8:.1f}"' if left else f'x="{x + 8:.1f}"'
        parts.append(f'<text {place} y="{y - 7:.1f}">{escape(name)}</text>')
    return parts


def _marks(xs: Sequence[float], *, logarithmic: bool) -> list[float]:
    """The values themselves where they are few, else round numbers; of a logarithm, powers of ten."""
    few = sorted(set(xs))
    if len(few) <= 7:
        return few
    if not logarithmic:
        return [value for value in round_numbers(min(xs), max(xs)) if min(xs) <= value <= max(xs)]
    powers = [10.0**power for power in range(math.floor(math.log10(min(xs))), math.ceil(math.log10(max(xs))) + 1)]
    return [value for value in powers if min(xs) <= value <= max(xs)] or [min(xs), max(xs)]
