"""Some of a recipe's examples: to average gates over, and to measure on."""

from dataclasses import dataclass
from pathlib import Path

from topiclora_cli.data import Encoded, Row, draw
from topiclora_cli.data.families import FAMILIES
from topiclora_cli.errors import TopicLoraError, nearest
from topiclora_cli.models.base import BaseModel
from topiclora_cli.recipe import Recipe
from topiclora_cli.stages.inputs import in_turns, with_topics
from topiclora_cli.stages.training_data import encode, rows_to_measure_on, training_data


@dataclass(frozen=True)
class Measured:
    """Examples to measure on; whether training left them out; the topic that all of them carry, where one was wanted
    and any carries it."""

    examples: list[Encoded]
    held_out: bool
    topic: str | None = None

    @property
    def kind(self) -> str:
        """What they are, in words."""
        about = f" of {self.topic}" if self.topic else ""
        return f"{'held-out' if self.held_out else 'training'} examples{about}"


def examples_to_measure_on(
    recipe: Recipe, base: BaseModel, limit: int, graph: Path | None, *, topic: str | None = None
) -> Measured:
    """At most `limit` examples with topics, drawn from all kinds; of `topic` alone where it is given and any is."""
    rows, held_out = rows_to_measure_on(recipe, limit if topic else -(-limit // len(FAMILIES)))
    if topic or recipe.graph.taxonomy == "induced":
        rows = _by_topic(recipe, rows, graph)
    about = [row for row in rows if topic in row.topics]
    drawn = draw(about or rows, limit, seed=recipe.seed)
    return Measured(encode(recipe, base.tokenizer, drawn), held_out, topic if about else None)


def calibration_rows(recipe: Recipe, graph: Path | None) -> list[Row]:
    """The training examples over which an export's gates are averaged, drawn from all kinds.

    Raises TopicLoraError for a topic that no example carries.
    """
    rows = training_data(recipe).train
    if topic := gates_topic(recipe):
        rows = _by_topic(recipe, rows, graph)
        tagged = [row for row in rows if topic in row.topics]
        if not tagged:
            known = {name for row in rows for name in row.topics}
            raise TopicLoraError(f"No training example carries the topic {topic!r}.", nearest(topic, known))
        rows = tagged
    return draw(rows, recipe.merge.calibration, seed=recipe.seed)


def _by_topic(recipe: Recipe, rows: list[Row], graph: Path | None) -> list[Row]:
    """Rows that carry topics; where these have to be told from prompts, of as many as the topic graph was built on."""
    told = recipe.graph.taxonomy == "induced" or not any(row.topics for row in rows)
    return with_topics(recipe, in_turns(rows, recipe), graph) if told else rows


def gates_topic(recipe: Recipe) -> str | None:
    """The topic an export is for, None for mean gates; raises TopicLoraError for any other `merge.gates`."""
    kind, _, topic = recipe.merge.gates.partition(":")
    if kind == "topic" and topic:
        return topic
    if recipe.merge.gates != "mean":
        raise TopicLoraError(f"merge.gates {recipe.merge.gates!r} is unknown.", "Use 'mean' or 'topic:NAME'.")
    return None
