"""Some of a recipe's examples: to average gates over, and to measure on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from topiclora_cli.data import Encoded, Row, draw
from topiclora_cli.data.families import FAMILIES
from topiclora_cli.data.load import load_rows
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.merging.gates import check_topics, parse_gates
from topiclora_cli.models.base import BaseModel
from topiclora_cli.recipe import Recipe
from topiclora_cli.recipe.data import DataSection
from topiclora_cli.stages.inputs import in_turns, with_topics
from topiclora_cli.stages.training_data import encode, rows_to_measure_on, training_data

# How many times merge.calibration examples gates by topic are averaged over, together, and learned gates fitted on.
FOR_TOPICS = FOR_LEARNING = 4


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


def by_length(examples: Sequence[Encoded]) -> list[Encoded]:
    """Examples in the order of their lengths, so that few read the padding of a longer one."""
    return sorted(examples, key=lambda example: len(example.input_ids))


def calibration_rows(recipe: Recipe, graph: Path | None) -> list[Row]:
    """The examples over which an export's gates are averaged, drawn from all kinds: training's, or a file's.

    For gates of each topic there are FOR_TOPICS times as many. Raises TopicLoraError for a topic that no example
    carries, and for a file that holds none.
    """
    asked = parse_gates(recipe.merge.gates)
    if asked.file is not None:
        return draw(_rows_of_file(recipe, asked.file), recipe.merge.calibration, seed=recipe.seed)
    rows = training_data(recipe).train
    if asked.topics or asked.kind == "all":
        rows = _by_topic(recipe, rows, graph)
        check_topics(asked, {name for row in rows for name in row.topics})
    if asked.topics:
        rows = [row for row in rows if not asked.topics.keys().isdisjoint(row.topics)]
    times = FOR_TOPICS if asked.kind == "all" else 1 if asked.kind != "learned" else FOR_LEARNING
    return draw(rows, times * recipe.merge.calibration * max(1, len(asked.topics)), seed=recipe.seed)


def _rows_of_file(recipe: Recipe, file: str) -> list[Row]:
    own = recipe.data
    try:
        section = DataSection(source=file, max_length=own.max_length, chat_template=own.chat_template)
        return load_rows(section, seed=recipe.seed)
    except TopicLoraError as error:
        raise TopicLoraError(f"merge.gates: no prompts to average over: {error.message}", error.hint) from None


def _by_topic(recipe: Recipe, rows: list[Row], graph: Path | None) -> list[Row]:
    """Rows that carry topics; where these have to be told from prompts, of as many as the topic graph was built on."""
    told = recipe.graph.taxonomy == "induced" or not any(row.topics for row in rows)
    return with_topics(recipe, in_turns(rows, recipe), graph) if told else rows
