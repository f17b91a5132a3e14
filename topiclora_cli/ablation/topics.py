"""Cells by the topics of questions, where their evaluations tell these apart."""

from collections.abc import Mapping
from statistics import fmean

from topiclora_cli.ablation.finished import CellResult
from topiclora_cli.ablation.pairs import BySeed, paired
from topiclora_cli.runs.results.ablation import TopicScore
from topiclora_cli.runs.results.evaluation import PartScores


def topic_scores(name: str, cells: Mapping[str, BySeed], reference: str) -> tuple[TopicScore, ...]:
    """The topics of a cell in the order of its first seed: scores over seeds, and differences from the reference.

    Topics may be those of each run's own graph; a difference is of seeds where both have as many questions of one.
    """
    by_seed = cells[name]
    pairs = paired(name, by_seed, reference, cells.get(reference, {})) if name != reference else []
    found = []
    for topic in dict.fromkeys(topic for result in by_seed.values() for topic in _topics(result)):
        own = [part for result in by_seed.values() if (part := _topics(result).get(topic))]
        both = [
            (one.tuned, two.tuned)
            for _, ours, theirs in pairs
            if (one := _topics(ours).get(topic)) and (two := _topics(theirs).get(topic)) and one.count == two.count
        ]
        difference = fmean(one - two for one, two in both) if both else None
        found.append(TopicScore(topic, own[0].count, fmean(part.tuned for part in own), difference, len(both)))
    return tuple(found)


def _topics(result: CellResult) -> dict[str, PartScores]:
    by_topic = result.scores.by_topic
    return {part.part: part for part in by_topic.topics} if by_topic is not None else {}
