"""Are a prompt's topics told from the prompt alone, of kinds of prompts seen before and of kinds never seen?

Prompts are of one kind when they carry the same topics. Kinds never seen are the hard case: no prompt and no task of
those topics takes part in anything that is learnt, the graph's edges included. Beside the scores stands what the same
features give without the graph, what knowing the topics' frequencies alone gives, and the cosine of plain texts.
"""

from dataclasses import replace

import torch
from sklearn.metrics import label_ranking_average_precision_score
from torch import Tensor
from torch.nn import functional as F

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.runs.results.graph import AttributionReport
from topiclora_cli.topics.evidence import FOLDS, guesses, information, kinds_of
from topiclora_cli.topics.graph import adjacency, build_graph, diffusion
from topiclora_cli.topics.prior import prior_from_relevance, prior_from_tags
from topiclora_cli.topics.projector import TrainingPairs, fit_projector, membership, places, scores
from topiclora_cli.topics.settings import GraphSettings
from topiclora_cli.topics.store import TopicGraph
from topiclora_cli.topics.taxonomy import Taxonomy


def attribution_report(
    graph: TopicGraph, taxonomy: Taxonomy, topic_texts: Tensor, pairs: TrainingPairs
) -> AttributionReport | None:
    """Leave out FOLDS parts of the prompts, then of the kinds, in turn; None without tagged prompts.

    topic_texts (T, f) and pairs are what the graph was learnt from.
    """
    if not pairs.prompts:
        return None
    kinds = list(dict.fromkeys(pairs.topics[: pairs.prompts]))
    kind, targets = kinds_of(pairs.topics[: pairs.prompts]), pairs.prompt_targets
    shared = membership(kinds, graph.num_topics).sum(0) >= 2
    common = shared if shared.any() else torch.ones_like(shared)
    seen = guesses(pairs, nearness=diffusion(adjacency(graph.edge_index, graph.edge_weight, graph.num_topics)))
    by_tags = prior_from_tags(graph, [[graph.topics[topic] for topic in found] for found in kinds])[kind]  # (n, E)

    def misfit(guessed: Tensor) -> float:
        return _kl(by_tags, prior_from_relevance(graph, guessed))

    prior = prior_from_relevance(graph, seen)
    report = AttributionReport(
        prompts=pairs.prompts,
        kinds=len(kinds),
        topics=int(common.sum()),
        seen=_precision(seen, targets, common),
        unseen=None,
        no_graph=None,
        frequency=None,
        cosine=None,
        information=information(prior.argmax(1), kind, graph.num_experts),
        kl_seen=misfit(seen),
        kl_unseen=None,
        kl_uniform=_kl(by_tags, torch.full_like(by_tags, 1 / graph.num_experts)),
    )
    found = _unseen(graph, taxonomy, topic_texts, pairs, kind) if len(kinds) >= FOLDS and shared.any() else None
    if found is None:
        return report
    precision = {name: _precision(guessed, targets, common) for name, guessed in found.items()}
    return replace(
        report,
        unseen=precision["unseen"],
        no_graph=precision["no_graph"],
        frequency=precision["frequency"],
        cosine=precision["cosine"],
        kl_unseen=misfit(found["unseen"]),
    )


def _unseen(
    graph: TopicGraph, taxonomy: Taxonomy, topic_texts: Tensor, pairs: TrainingPairs, kind: Tensor
) -> dict[str, Tensor] | None:
    """Scores (n, T) of every tagged prompt, its kind left out, by each way of telling; None where no edge is left."""
    out = {name: torch.zeros(pairs.prompts, graph.num_topics) for name in ("unseen", "no_graph", "frequency")}
    kind_of_text = kinds_of(pairs.topics[: -graph.num_topics])  # of prompts, then tasks
    for fold in range(FOLDS):
        rows = (kind % FOLDS == fold).nonzero()[:, 0]
        left_out = torch.isin(kind_of_text, kind_of_text[rows]).nonzero()[:, 0]
        rest = pairs.without(left_out)
        near = _nearness(graph, taxonomy, topic_texts, {pairs.topics[row] for row in rows.tolist()})
        if near is None:
            return None
        x = pairs.x[rows]
        out["unseen"][rows] = scores(fit_projector(rest, nearness=near), x)
        out["no_graph"][rows] = scores(fit_projector(rest), x)
        out["frequency"][rows] = rest.prompt_targets.mean(0).expand(len(rows), -1)
    descriptions = pairs.x[-graph.num_topics :]
    return out | {"cosine": F.normalize(pairs.x[: pairs.prompts], dim=1) @ F.normalize(descriptions, dim=1).T}


def _nearness(
    graph: TopicGraph, taxonomy: Taxonomy, topic_texts: Tensor, hidden: set[tuple[int, ...]]
) -> Tensor | None:
    """Nearness (T, k) in a graph from no task of the hidden sets of topics; None where it has no edge."""
    place = {name: index for index, name in enumerate(taxonomy.names)}
    tasks = {task: tags for task, tags in taxonomy.tasks.items() if places(tags, place) not in hidden}
    try:
        data = build_graph(
            replace(taxonomy, tasks=tasks), topic_texts.detach().float().cpu(), **GraphSettings.of(graph).ties
        )
    except TopicLoraError:
        return None
    assert data.edge_index is not None
    return diffusion(adjacency(data.edge_index, data.edge_weight, graph.num_topics))


def _precision(guessed: Tensor, targets: Tensor, common: Tensor) -> float:
    """Mean average precision of scores (n, T) over the rows with a common topic."""
    wanted = targets[:, common]
    some = wanted.any(1)
    return float(label_ranking_average_precision_score(wanted[some].numpy(), guessed[some][:, common].numpy()))


def _kl(wanted: Tensor, guess: Tensor) -> float:
    return float((wanted * (wanted.log() - guess.log())).sum(1).mean())
