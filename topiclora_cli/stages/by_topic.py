"""Scores of an evaluation by the topic of each question, as the run's graph has it, and by the expert that took it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from peft import PeftModel

from topiclora_cli.adapters.observe import observe_gates
from topiclora_cli.data import Encoded, Row
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.evaluation.by_topic import AskedText, scored_tasks, scores_of_parts
from topiclora_cli.evaluation.routing import mean_routing
from topiclora_cli.models.base import BaseModel
from topiclora_cli.models.precision import use_bfloat16
from topiclora_cli.recipe import Recipe
from topiclora_cli.runs.files import write_csv
from topiclora_cli.runs.progress import Progress, tracked
from topiclora_cli.runs.results.evaluation import EvalSummary, PartScores, QuestionScores, ScoresByTopic
from topiclora_cli.stages.inputs import make_batches, open_encoder
from topiclora_cli.topics.prior import TopicPrior
from topiclora_cli.topics.store import TopicGraph

BY_TOPIC = "by_topic.csv"
_LONGEST = 2048  # tokens of a question that an expert is told by, its last ones
FIGURES = ("base", "base_stderr", "tuned", "tuned_stderr", "delta", "delta_stderr", "low", "high")
Asked = Mapping[str, Sequence[AskedText]]


def topics_of(recipe: Recipe, asked: Asked, graph: Path | None) -> dict[str, list[tuple[str, ...]]]:
    """Of each task's questions the topics: their data's own, else the one that the graph finds them most about.

    Raises TopicLoraError where there is no graph.
    """
    if graph is None:
        raise TopicLoraError(
            "eval.by_topic sorts questions by the topics of the run's graph, and the run has none.",
            "Run build-graph in it, or leave --by-topic out.",
        )
    known = TopicGraph.load(graph)
    prior = TopicPrior(known, open_encoder(recipe))
    found: dict[str, list[tuple[str, ...]]] = {}
    for task, questions in asked.items():
        texts = [question.text for question in questions if not question.topics]
        best = iter(prior(texts).relevance.argmax(1).tolist() if texts else [])
        found[task] = [question.topics or (known.topics[next(best)],) for question in questions]
    return found


def scores_by_topic(
    topics: Mapping[str, Sequence[tuple[str, ...]]],
    experts: Mapping[str, Sequence[tuple[str, ...]]] | None,
    summary: EvalSummary,
    answers: QuestionScores,
) -> ScoresByTopic | None:
    """The scores of questions by topic and, where something is routed, by expert; None where no task has a share."""
    keys = scored_tasks(summary, answers)
    if not keys:
        return None
    by_expert = scores_of_parts(experts, answers, keys) if experts is not None else ()
    return ScoresByTopic(tuple(keys), scores_of_parts(topics, answers, keys), by_expert)


def experts_of(
    recipe: Recipe, base: BaseModel, model: PeftModel, asked: Asked, progress: Progress
) -> dict[str, list[tuple[str, ...]]] | None:
    """Of each task's questions the expert with the largest mean gate over their tokens; None where nothing is routed.

    The mean is over the adapted linears that share the commonest number of experts.
    """
    encoded = [_encoded(base, question.text) for questions in asked.values() for question in questions]
    order = sorted(range(len(encoded)), key=lambda place: len(encoded[place].input_ids))
    batches = make_batches(base, [encoded[place] for place in order], tokens="prompt")
    bfloat16 = use_bfloat16(recipe.train.precision)
    gates = mean_routing(observe_gates(model, tracked(progress, "experts of questions", batches), bfloat16=bfloat16))
    if gates is None:
        return None
    chosen = dict(zip(order, gates.argmax(1).tolist(), strict=True))
    places = iter(range(len(encoded)))
    return {task: [(f"expert {chosen[next(places)]}",) for _ in questions] for task, questions in asked.items()}


def write_by_topic(folder: Path, scores: ScoresByTopic) -> None:
    """Both tables, one below the other, as CSV."""
    rows = [("topic", part) for part in scores.topics] + [("expert", part) for part in scores.experts]
    write_csv(folder / BY_TOPIC, ["by", "part", "questions", *FIGURES], [_row(by, part) for by, part in rows])


def _row(by: str, part: PartScores) -> list[object]:
    return [by, part.part, part.count, *(getattr(part, figure) for figure in FIGURES)]


def _encoded(base: BaseModel, text: str) -> Encoded:
    tokens = base.tokenizer(text).input_ids or [base.tokenizer.eos_token_id]
    longest = min(_LONGEST, getattr(base.model.config, "max_position_embeddings", None) or _LONGEST)
    kept = tokens[-longest:]
    return Encoded(Row(text, ""), kept, len(kept))
