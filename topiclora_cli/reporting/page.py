"""A report as one HTML page that needs nothing else: no network, no script, no font.

It follows the reader's light or dark setting, treats every text of a run as text, and is the same whenever it is made.
"""

import base64
import re
from collections.abc import Sequence
from itertools import groupby

import jinja2
from markupsafe import Markup, escape

from topiclora_cli.reporting.plots import plot_svg
from topiclora_cli.reporting.sections import Code, Curves, Intervals, Part, Picture, Plot, Report, Text
from topiclora_cli.reporting.svg import COLOURS, curves_svg, intervals_svg
from topiclora_cli.reporting.table import Table, as_html


def page(report: Report) -> str:
    """The report as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("topiclora_cli.reporting", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(words=_words)
    sections = [(section.title, _parts(section.parts, report)) for section in report.sections]
    template = environment.get_template("page.html.j2")
    return template.render(report=report, sections=sections, colours=COLOURS) + "\n"


def _parts(parts: Sequence[Part], report: Report) -> list[Markup]:
    """Each part as HTML, curves that follow one another side by side under one legend."""
    drawn = []
    for curves, group in groupby(parts, lambda part: isinstance(part, Curves)):
        each = [_part(part, report) for part in group]
        legend = f"<p>{_legend(report.runs)}</p>" if len(report.runs) > 1 else ""
        drawn += [f'{legend}<div class="curves">{"".join(each)}</div>'] if curves else each
    return [Markup(part) for part in drawn]


def _part(part: Part, report: Report) -> str:
    match part:
        case Text():
            return f"<p>{_words(part.text)}</p>"
        case Code():
            return f'<pre tabindex="0"><code>{escape(part.text)}</code></pre>'
        case Table():
            return f'<div class="wide" tabindex="0">{as_html(part)}</div>'
        case Curves():
            return _figure(curves_svg(part, report.runs), part.title, "curve")
        case Intervals():
            series = list(dict.fromkeys(name for each in part.rows.values() for name in each))
            legend = _legend(series) if len(series) > 1 else ""
            return _figure(
                f'<div class="wide" tabindex="0">{intervals_svg(part, series)}</div>', part.title, "", legend
            )
        case Plot():
            return _figure(
                plot_svg(part), part.title, "plot", _legend(list(part.series)) if len(part.series) > 1 else ""
            )
        case Picture():
            image = base64.b64encode(part.path.read_bytes()).decode()
            drawn = f'<img src="data:image/png;base64,{image}" alt="{escape(part.alt)}">'
            return _figure(drawn, part.alt, "picture")


def _figure(drawn: str, caption: str, kind: str, legend: str = "") -> str:
    return f'<figure class="{kind}"><figcaption>{escape(caption)}{legend}</figcaption>{drawn}</figure>' if drawn else ""


def _legend(names: Sequence[str]) -> str:
    keys = (f'<span class="key c{i % COLOURS}">{escape(name)}</span>' for i, name in enumerate(names))
    return f'<span class="legend">{" ".join(keys)}</span>'


def _words(text: str) -> Markup:
    """Text with what stands in back quotes as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))
