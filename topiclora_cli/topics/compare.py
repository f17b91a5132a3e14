"""Is the learnt assignment better than what it has to beat, and is it the same from seed to seed?

Every setting is fitted with several seeds on the same features and judged on the same, true graph. What a control
changes after the fit only (its labels, a shuffle) comes from one fit with the learnt assignment, as if fitted anew.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import torch
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.runs.results.graph import Comparison, Contender, Spread
from topiclora_cli.topics import controls
from topiclora_cli.topics.evidence import Evidence, information
from topiclora_cli.topics.experts import assignment_report, separation_report
from topiclora_cli.topics.fit import controlled
from topiclora_cli.topics.gnn import GnnKind
from topiclora_cli.topics.graph import adjacency, build_graph, rewire
from topiclora_cli.topics.learn import learn
from topiclora_cli.topics.settings import CONTROLS, Control, GraphSettings
from topiclora_cli.topics.store import TopicGraph
from topiclora_cli.topics.taxonomy import Taxonomy

SEEDS, MOST_TOPICS = 3, 500
# These change what is learnt from, or how; all others what is made of it.
_FITTED: tuple[Control, ...] = ("random_graph", "dmon")


@dataclass(frozen=True)
class _Outcome:
    owner: list[int]
    information: float | None
    modularity: float
    min_angle: float
    entropy: float


def seeds_to_compare(wanted: int | None, topics: int) -> int:
    """How many seeds to fit: as many as wanted; unset, SEEDS, or none where so many fits would take minutes."""
    if wanted is None:
        return SEEDS if topics <= MOST_TOPICS else 0
    return wanted


def compare(
    graph: TopicGraph,
    taxonomy: Taxonomy,
    features: Tensor,
    *,
    evidence: Evidence | None = None,
    seeds: int = SEEDS,
    on_fit: Callable[[int], None] = lambda _: None,
) -> Comparison:
    """Fit the graph's settings with other seeds, without a graph network, and under every control.

    `features` (T, f) and `evidence` are what the graph was learnt from. Seeds count up from the graph's own.
    `on_fit(done)` is called after each of the `fits_to_compare`. The caller's random state stays.
    """
    own = GraphSettings.of(graph)
    true = build_graph(taxonomy, features.detach().float().cpu(), **own.ties)
    assert true.edge_index is not None
    weight = adjacency(true.edge_index, true.edge_weight, len(taxonomy.topics))
    after = [control for control in CONTROLS if control not in _FITTED and _possible(control, graph, taxonomy)]
    outcomes: dict[tuple[GnnKind, Control], list[_Outcome]] = {}
    with torch.random.fork_rng(devices=[]):
        for seed in range(graph.seed, graph.seed + seeds):
            for gnn, control in _fits(graph):
                # The graph's own weights are of its own losses, DMoN's or ours.
                kept = own.loss_weights if (control == "dmon") == (own.control == "dmon") else {}
                settings = replace(own, gnn=gnn, control=control, loss_weights=kept)
                torch.manual_seed(seed)
                data = rewire(true, seed) if control == "random_graph" else true
                z, vectors, assignment = learn(data, settings, evidence=evidence)
                state = torch.get_rng_state()
                shared = after if (gnn, control) == (own.gnn, "none") else [control]
                for name in shared:
                    torch.set_rng_state(state)
                    found = controlled(name, taxonomy, data, z, vectors, assignment)
                    outcomes.setdefault((gnn, name), []).append(_judge(*found, weight, evidence))
                on_fit(1)
    ordered = sorted(outcomes.items(), key=lambda item: CONTROLS.index(item[0][1]))
    return Comparison(
        tuple(range(graph.seed, graph.seed + seeds)),
        tuple(_contender(*key, key == (own.gnn, own.control), found) for key, found in ordered),
    )


def fits_to_compare(graph: TopicGraph, seeds: int) -> int:
    """How many fits `compare` makes."""
    return seeds * len(_fits(graph))


def adjusted_rand(partitions: Sequence[Sequence[int]]) -> Spread | None:
    """Adjusted Rand index over all pairs of partitions; None for fewer than two, or where none parts anything."""
    if len(partitions) < 2 or all(len(set(owner)) == 1 for owner in partitions):
        return None
    return _spread([float(adjusted_rand_score(a, b)) for a, b in combinations(partitions, 2)])


def _fits(graph: TopicGraph) -> list[tuple[GnnKind, Control]]:
    """Pairs of graph network and control that need a fit of their own."""
    gnn = GraphSettings.of(graph).gnn
    return list(dict.fromkeys([(gnn, "none"), ("none", "none"), *((gnn, control) for control in _FITTED)]))


def _possible(control: str, graph: TopicGraph, taxonomy: Taxonomy) -> bool:
    """False for `groups` where the taxonomy has too few of them."""
    if control != "groups":
        return True
    try:
        controls.group_labels(taxonomy, graph.num_experts)
    except TopicLoraError:
        return False
    return True


def _judge(vectors: Tensor, assignment: Tensor, weight: Tensor, evidence: Evidence | None) -> _Outcome:
    report = assignment_report(assignment, weight)
    angle = separation_report(vectors).min_angle
    shared = None
    if evidence is not None:
        shared = information((evidence.topics @ assignment).argmax(1), evidence.kind, len(vectors))
    return _Outcome(assignment.argmax(1).tolist(), shared, report.modularity, angle, report.entropy)


def _contender(gnn: str, control: str, own: bool, found: Sequence[_Outcome]) -> Contender:
    known = [outcome.information for outcome in found if outcome.information is not None]
    return Contender(
        gnn=gnn,
        control=control,
        own=own,
        information=None if not known else _spread(known),
        modularity=_spread([outcome.modularity for outcome in found]),
        min_angle=_spread([outcome.min_angle for outcome in found]),
        entropy=_spread([outcome.entropy for outcome in found]),
        stability=adjusted_rand([outcome.owner for outcome in found]),
    )


def _spread(values: Sequence[float]) -> Spread:
    return Spread(sum(values) / len(values), min(values), max(values))
