"""The figures of a study of routing as CSV files, for whoever draws or tests them elsewhere."""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path

import torch

from topiclora_cli.adapters.topiclora.scope import layer_index
from topiclora_cli.runs.files import write_csv
from topiclora_cli.runs.results.interval import Interval
from topiclora_cli.runs.results.routing import (
    MEASURES,
    Changes,
    Interfered,
    LayerRouting,
    ProbeStudy,
    RoutingStudy,
    TopicChange,
)
from topiclora_cli.stages.routing_study import Studied

ALL = "all"  # in the place of a layer's number
_ENDS = ("mean", "low", "high")
_JOINED = ("gates", "gates_from_prior", "prior")
_FIGURES = [each.name for each in fields(LayerRouting) if each.name not in ("layer", "cosine", "cka", "load")]

Row = Sequence[object]


def write_routing_sheets(folder: Path, studied: Studied) -> None:
    """Write layers, use, experts, tokens, interference and topics, a .csv each, into `folder`."""
    study, layers = studied.study, studied.layers
    heads = ["layer", *_FIGURES, "cosine_mean", "cosine_largest", "cka_mean", "cka_largest"]
    heads += [f"load_{e}" for e in range(study.experts)]
    rows = [(each.layer, each) for each in study.layers] + [(ALL, study.together)]
    write_csv(folder / "layers.csv", heads, [_layer_row(name, each, study.experts) for name, each in rows])
    experts = [f"expert_{e}" for e in range(study.experts)]
    use = [(layer, topic, *gates) for layer, topics in layers.use.items() for topic, gates in topics.items()]
    use += [(ALL, topic, *gates) for topic, gates in layers.by_topic.items()]
    write_csv(folder / "use.csv", ["layer", "topic", *experts], use)
    write_csv(folder / "experts.csv", ["module", "expert", "other", "cosine", "cka", "tokens"], _pairs(studied))
    write_csv(folder / "tokens.csv", ["text", "place", "token", "written", "layer", *experts], _tokens(studied))
    if study.interfered:
        ends = [f"{measure}_{end}" for measure in MEASURES for end in ("before", "after", *_ENDS)]
        own = [f"{part}_{end}" for part in ("own", "others", "apart") for end in _ENDS]
        write_csv(
            folder / "interference.csv", ["way", "expert", *ends, *own], [_way_row(each) for each in study.interfered]
        )
        changes = [f"{measure}_{end}" for measure in MEASURES for end in _ENDS]
        write_csv(folder / "topics.csv", ["way", "expert", "topic", "questions", *changes], _topics(study))


def write_probe_sheet(path: Path, study: ProbeStudy) -> None:
    """Write one row a probe."""
    ends = [f"{measure}_{end}" for measure in MEASURES for end in ("before", "after", *_ENDS)]
    heads = ["probe", "questions", *ends, *(f"moved_{end}" for end in _ENDS), *(f"moved_last_{end}" for end in _ENDS)]
    heads += [f"against_{end}" for end in ends] + [f"more_{measure}_{end}" for measure in MEASURES for end in _ENDS]
    joined = [*(f"{part}_{whose}" for part in _JOINED for whose in ("both", "own")), "weight"]
    heads += [f"joined_{name}_{end}" for name in joined for end in _ENDS]
    rows = [
        [
            each.probe,
            each.asked,
            *_of_changes(each.changes),
            *_of_interval(each.moved),
            *_of_interval(each.moved_last),
            *_of_changes(each.against),
            *(value for measure in MEASURES for value in _of_interval(each.more.get(measure))),
            *(value for name in _JOINED for value in _of_pair(getattr(each.joined, name, None))),
            *_of_interval(each.joined.weight if each.joined else None),
        ]
        for each in study.probes
    ]
    write_csv(path, heads, rows)


def _of_pair(found: tuple[Interval, Interval] | None) -> Row:
    return [value for each in found or (None, None) for value in _of_interval(each)]


def _layer_row(name: object, each: LayerRouting, experts: int) -> Row:
    pairs = [*(each.cosine or (None, None)), *(each.cka or (None, None))]
    load = [*each.load, *[None] * (experts - len(each.load))]
    return ["" if name is None else name, *(getattr(each, figure) for figure in _FIGURES), *pairs, *load]


def _pairs(studied: Studied) -> Iterator[Row]:
    for module, alike in studied.layers.alike.items():
        for one in range(len(alike.cosine)):
            for other in range(one + 1, len(alike.cosine)):
                yield module, one, other, float(alike.cosine[one, other]), float(alike.cka[one, other]), alike.tokens


def _tokens(studied: Studied) -> Iterator[Row]:
    """Every token's mean gates over each layer's modules, and over all."""
    for number, (text, mean) in enumerate(zip(studied.texts, studied.study.texts, strict=True)):
        members: dict[int | None, list[str]] = {}
        for name, gates in text.gates.items():
            if gates.shape[-1] == studied.study.experts:
                members.setdefault(layer_index(name), []).append(name)
        for place, token in enumerate(mean):
            for layer, names in members.items():
                gates = torch.stack([text.gates[name][place] for name in names]).mean(0)
                yield number, place, token.token, int(token.written), layer, *gates.tolist()
            yield number, place, token.token, int(token.written), ALL, *token.gates


def _way_row(each: Interfered) -> Row:
    parts = (value for part in (each.own, each.others, each.apart) for value in _of_interval(part))
    return [each.way, each.expert, *_of_changes(each.changes), *parts]


def _topics(study: RoutingStudy) -> Iterator[Row]:
    for each in study.interfered:
        for topic, change in each.by_topic.items():
            yield [each.way, each.expert, topic, change.count, *_of_topic(change)]


def _of_topic(change: TopicChange) -> list[float | None]:
    return [value for measure in MEASURES for value in _of_interval(change.change.get(measure))]


def _of_changes(changes: Changes | None) -> list[float | None]:
    if changes is None:
        return [*[None] * 5 * len(MEASURES)]
    found: list[float | None] = []
    for measure in MEASURES:
        found += [changes.before.get(measure), changes.after.get(measure)]
        found += _of_interval(changes.change.get(measure))
    return found


def _of_interval(interval: Interval | None) -> list[float | None]:
    return [None] * 3 if interval is None else [interval.mean, interval.low, interval.high]
