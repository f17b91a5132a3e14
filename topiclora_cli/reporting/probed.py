"""Of a report: what changes of the prompts do to answers and to routing."""

from collections.abc import Sequence

from topiclora_cli.reporting.changes import NAMES, change, measured_names, of_changes
from topiclora_cli.reporting.material import Material
from topiclora_cli.reporting.sections import Part, Section, Text
from topiclora_cli.reporting.table import Cell, Table, columns, row
from topiclora_cli.runs.results.interval import Interval
from topiclora_cli.runs.results.routing import Joined, ProbeStudy

_ABOUT = (
    "Changes are probed less unprobed, means over the questions that a probe applies to, with 95 % intervals paired by "
    "question; strong where that leaves out 0."
)
_MOVED = "Routing is moved by so much: Jensen-Shannon divergence of mean gates from the unprobed prompt's, in nats"

_JOINED = (
    "Of a prompt that joins questions of two topics: how far its gates and its prior are from the even mixture of what "
    "both questions have alone, and from what the asked one has alone, in nats. Nearer to the mixture means that the "
    "experts of both topics take part."
)


def probe_studies(runs: Sequence[Material]) -> list[Section]:
    """A section for the probes of each evaluation."""
    sections = []
    for run in runs:
        whose = f", {run.label}" if len(runs) > 1 else ""
        for name, study in run.probes.items():
            sections.append(Section(f"Probes, `{name}`{whose}", _parts(study)))
    return sections


def probes_table(study: ProbeStudy) -> Table:
    """Every probe's changes and how far it moves the routing."""
    measures = measured_names({m: 0 for each in study.probes for m in each.changes.before})
    moved = any(each.moved for each in study.probes)
    heads = ["probe", "n", *(NAMES[m] for m in measures), *(["routing moved", "at the last token"] if moved else [])]
    rows = []
    for each in study.probes:
        cells = [*row(each.probe, f"{each.asked:,}"), *of_changes(each.changes, measures)]
        rows.append([*cells, *([_far(each.moved), _far(each.moved_last)] if moved else [])])
    return Table("Changes by probe", columns(*heads, right=1), rows)


def joined_table(joined: Joined) -> Table:
    """How the prompts that join two topics are routed, beside both questions alone."""
    lines = {"gates, by the gates alone": joined.gates, "gates, by the priors alone": joined.gates_from_prior}
    lines["prior, by the priors alone"] = joined.prior
    rows = [[Cell(name), *map(_far, ends)] for name, ends in lines.items() if ends is not None]
    if joined.weight is not None:
        name = f"gate of the other topic's expert, more than alone ({joined.apart} prompts whose experts differ)"
        rows.append([Cell(name), change(joined.weight), Cell("")])
    return Table("Two topics in one prompt", columns("distance of", "from both", "from the asked one", right=1), rows)


def _parts(study: ProbeStudy) -> list[Part]:
    about = _ABOUT
    if study.between is not None and study.between_last is not None:
        about += (
            f" {_MOVED}; two different questions are {study.between:.3f} apart, at their last tokens "
            f"{study.between_last:.3f}."
        )
    parts: list[Part] = [Text(about), probes_table(study), *map(Text, study.left_out)]
    for each in study.probes:
        if each.joined is not None:
            parts += [Text(_JOINED), joined_table(each.joined)]
    if study.against is not None:
        measures = measured_names({m: 0 for each in study.probes for m in each.more})
        heads = [
            "probe",
            *(f"{study.against}: {NAMES[m]}" for m in measures),
            *(f"less it: {NAMES[m]}" for m in measures),
        ]
        rows = [
            [
                Cell(each.probe),
                *of_changes(each.against, measures),
                *(change(each.more.get(m), share=m == "score") for m in measures),
            ]
            for each in study.probes
        ]
        parts.append(Table(f"Beside {study.against}", columns(*heads, right=1), rows))
    return parts


def _far(interval: Interval | None) -> Cell:
    return Cell("-" if interval is None else f"{interval.mean:.3f} ({interval.low:.3f} to {interval.high:.3f})")
