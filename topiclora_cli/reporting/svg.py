"""Drawings for a page: curves by step and scores with their intervals, as SVG that the page's style sheet colours."""

import math
from collections.abc import Sequence
from html import escape
from itertools import pairwise

from topiclora_cli.reporting.chart import smoothed
from topiclora_cli.reporting.formats import measure
from topiclora_cli.reporting.sections import Curves, Estimate, Intervals, Points

COLOURS = 8  # classes c0 to c7 of the style sheet
_WIDTH, _HEIGHT = 440, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 28
_MOST = 120  # points of a drawn line
_FEW = 20  # points that are drawn as they are, each with a dot
_ROW, _LETTER, _LONGEST = 26, 7.3, 44  # of the intervals: height of a row, width of a letter, letters of a name
_95 = 1.959964


def curves_svg(curves: Curves, classes: Sequence[str]) -> str:
    """Lines over steps; classes names the runs in the order of their colours."""
    thinned = {label: _thinned(points) for label, points in curves.lines.items()}
    steps = [step for points in thinned.values() for step, _ in points]
    values = [value for points in thinned.values() for _, value in points if math.isfinite(value)]
    if not values:
        return ""
    ticks = round_numbers(min(values), max(values))
    low, high = min(ticks[0], *values), max(ticks[-1], *values)
    first, last = min(steps), max(steps)

    def x(step: float) -> float:
        return _LEFT + (step - first) / ((last - first) or 1) * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - low) / ((high - low) or 1) * (_HEIGHT - _TOP - _BOTTOM)

    told = "; ".join(
        f"{label}: first {points[0][1]:.4g}, last {points[-1][1]:.4g}" for label, points in curves.lines.items()
    )
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(f"{curves.title} by step. {told}")}">'
    ]
    for tick in ticks:
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text class="end" x="{_LEFT - 8}" y="{y(tick) + 4:.1f}">{tick:.6g}</text>')
    parts += [
        f'<line class="alarm" x1="{x(a):.1f}" x2="{x(a):.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>'
        for a in curves.alarms
    ]
    for label, points in thinned.items():
        kind = f"c{classes.index(label) % COLOURS}"
        finite = [(step, value) for step, value in points if math.isfinite(value)]
        even = smoothed([value for _, value in finite])
        courses = {f"{kind} raw": finite} if len(finite) >= _FEW else {}
        courses[kind] = [(step, value) for (step, _), value in zip(finite, even, strict=True)]
        for look, course in courses.items():
            line = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in course)
            parts.append(f'<polyline class="{look}" points="{line}"><title>{escape(label)}</title></polyline>')
        if len(points) < _FEW:
            parts += [
                f'<circle class="{kind}" cx="{x(s):.1f}" cy="{y(v):.1f}" r="2.5"/>'
                for s, v in points
                if math.isfinite(v)
            ]
    parts.append(f'<text x="{_LEFT}" y="{_HEIGHT - 8}">step {first:.0f}</text>')
    parts.append(f'<text class="end" x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 8}">{last:.0f}</text></svg>')
    return "\n".join(parts)


def intervals_svg(intervals: Intervals, series: Sequence[str]) -> str:
    """A dot for every score and a line as long as its 95 % interval; series names colours in their order."""
    ends = [_ends(each, intervals.unit) for row in intervals.rows.values() for each in row.values()]
    ends += [(0.0, 0.0)] if intervals.signed else []
    ticks = round_numbers(min(low for low, _ in ends), max(high for _, high in ends))
    low, high = min(ticks[0], *(end for end, _ in ends)), max(ticks[-1], *(end for _, end in ends))
    names = round(_LETTER * min(_LONGEST, max(map(len, intervals.rows)))) + 16
    width = names + 500
    step = max(_ROW, 12 * len(series) + 8)
    height = step * len(intervals.rows) + 34

    def x(value: float) -> float:
        return names + (value - low) / ((high - low) or 1) * (width - names - 20)

    label = f"{intervals.title}; the numbers stand in the table above."
    parts = [f'<svg class="intervals" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">']
    for tick in ticks:
        parts.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="4" y2="{height - 26}"/>')
        parts.append(f'<text class="middle" x="{x(tick):.1f}" y="{height - 8}">{shown(tick, intervals.unit)}</text>')
    if intervals.signed:
        parts.append(f'<line class="alarm" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="4" y2="{height - 26}"/>')
    for number, (name, row) in enumerate(intervals.rows.items()):
        middle = step * (number + 0.5) + 4
        parts.append(f'<text class="end" x="{names - 12}" y="{middle + 4:.1f}">{escape(_short(name))}</text>')
        for place, (who, each) in enumerate(row.items()):
            y = middle + 10 * (place - (len(row) - 1) / 2)
            kind = f"c{series.index(who) % COLOURS}"
            value = measure(each.value, intervals.unit, signed=intervals.signed)
            said = escape(f"{name}, {who}: {value}")
            start, end = map(x, _ends(each, intervals.unit))
            parts.append(f'<line class="{kind}" x1="{start:.1f}" x2="{end:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(
                f'<circle class="{kind}" cx="{x(each.value):.1f}" cy="{y:.1f}" r="3.5"><title>{said}</title></circle>'
            )
    return "\n".join([*parts, "</svg>"])


def _ends(each: Estimate, unit: str) -> tuple[float, float]:
    """Of the 95 % interval; of one made of an error, as far as a share can be."""
    if each.ends is not None:
        return each.ends
    half = _95 * (each.stderr or 0)
    low, high = each.value - half, each.value + half
    return (max(0.0, low), min(1.0, high)) if unit == "share" else (low, high)


def shown(value: float, unit: str) -> str:
    """A tick of an axis in that unit."""
    return f"{100 * value:.0f}" if unit == "share" else f"{value:.6g}"


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[:18]}…{name[-_LONGEST + 19 :]}"


def _thinned(points: Points) -> Points:
    """At most _MOST points, each the mean of its part of the line."""
    if len(points) <= _MOST:
        return points
    edges = [index * len(points) // _MOST for index in range(_MOST + 1)]
    parts = [points[start:end] for start, end in pairwise(edges)]
    return [(sum(s for s, _ in part) / len(part), sum(v for _, v in part) / len(part)) for part in parts]


def round_numbers(low: float, high: float) -> list[float]:
    """Three to six round numbers from about low to about high."""
    span = (high - low) or abs(high) or 1.0
    size = 10 ** math.floor(math.log10(span / 4))
    step = next(size * each for each in (1, 2, 2.5, 5, 10) if span / (size * each) <= 5)
    start, end = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(start, end + 1)] or [low]
