"""What every stage starts from: the base model, the text encoder, the examples, and batches of them."""

import random
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from topiclora_cli.errors import TopicLoraError, nearest
from topiclora_cli.evaluation.harness import EvalRequest, evaluation_questions
from topiclora_cli.models import BaseModel, load_base, store_weights_in_bfloat16, use_bfloat16
from topiclora_cli.recipe import Recipe
from topiclora_cli.recipe.data import EMBEDDED
from topiclora_cli.tasks import FAMILIES
from topiclora_cli.topics.encoder import Encoder, make_encoder, portable
from topiclora_cli.topics.induce import induce_taxonomy
from topiclora_cli.topics.prior import TopicPrior
from topiclora_cli.topics.projector import calibrate
from topiclora_cli.topics.store import TopicGraph
from topiclora_cli.topics.taxonomy import Taxonomy, load_taxonomy
from topiclora_cli.training.collate import Collator
from topiclora_cli.training.data import Data, Encoded, Row, encode_rows, load_data, load_rows
from topiclora_cli.training.data.clean import Contamination
from topiclora_cli.training.data.reading import Reader
from topiclora_cli.training.data.stream import ExampleStream

BATCH = 16


def open_base(recipe: Recipe, *, exact: bool = False) -> BaseModel:
    """The base model, ready to run; `exact` keeps every weight in the recipe's dtype, for saving."""
    section = recipe.model
    base = load_base(
        section.name,
        dtype=section.dtype,
        revision=section.revision,
        trust_remote_code=section.trust_remote_code,
        upcycle=section.upcycle,
    )
    if use_bfloat16(recipe.train.precision) and not exact:
        store_weights_in_bfloat16(base.model)
    if torch.cuda.is_available():
        base.model.to("cuda")  # type: ignore[arg-type]
    return base


def open_encoder(recipe: Recipe, base: BaseModel | None = None) -> Encoder:
    """The text encoder of the topic graph; `lm` reads the base model, which is loaded unless given."""
    spec = recipe.graph.encoder
    if spec != "lm":
        return make_encoder(spec)
    base = base or open_base(recipe)
    upcycled = recipe.model.upcycle
    # Without noise the upcycled model is the same function, and reads the same graph.
    variant = f"+{'-'.join(map(str, upcycled.model_dump().values()))}" if upcycled and upcycled.noise else ""
    return make_encoder(
        f"lm:{portable(recipe.model.name)}{variant}",
        model=base.model,
        tokenizer=base.tokenizer,
        bf16=use_bfloat16(recipe.train.precision),
    )


def training_data(recipe: Recipe) -> Data:
    """The recipe's examples, without the evaluation's questions if it asks for that, and without topics to drop.

    Of a stream, the first few.
    """
    return load_data(recipe.data, seed=recipe.seed, known_topics=_known_topics(recipe), contaminated=_overlap(recipe))


def training_stream(recipe: Recipe, base: BaseModel, graph: TopicGraph | None) -> ExampleStream:
    """The recipe's examples as they are needed, with priors where there is a graph."""
    reader = Reader(seed=recipe.seed, known_topics=_known_topics(recipe), contaminated=_overlap(recipe), streaming=True)
    priors = TopicPrior(graph, open_encoder(recipe, base)) if graph is not None else None
    return ExampleStream(recipe.data, reader, base.tokenizer, priors)


def _known_topics(recipe: Recipe) -> set[str] | None:
    """The graph's topics where some source leaves out all others."""
    graph = recipe.graph
    if graph.taxonomy == "induced" or all(source.unknown_topics == "error" for source in recipe.data.all_sources):
        return None
    taxonomy = load_taxonomy(graph.taxonomy, min_tasks=graph.min_tasks, exclude_tasks=graph.exclude_tasks)
    return set(taxonomy.names)


def _overlap(recipe: Recipe) -> Contamination | None:
    if not recipe.data.decontaminate:
        return None
    return _contamination(tuple(recipe.eval.tasks), recipe.eval.include_path, recipe.data.ngram)


@lru_cache(maxsize=1)
def _contamination(tasks: tuple[str, ...], include_path: str | None, ngram: int) -> Contamination:
    # A command reads the data several times; lm-eval's tasks take many seconds each time.
    return Contamination(evaluation_questions(EvalRequest(tasks=tasks, include_path=include_path)), ngram)


def encode(recipe: Recipe, base: BaseModel, rows: Sequence[Row]) -> list[Encoded]:
    """Token ids of examples as the recipe wants them; raises TopicLoraError when nothing fits."""
    data = recipe.data
    return encode_rows(rows, base.tokenizer, max_length=data.max_length, chat_template=data.chat_template)


def refuse_unknown_topics(rows: Sequence[Row], known: Sequence[str]) -> None:
    """Raises TopicLoraError where an example carries a topic that is not among the `known`."""
    if unknown := {tag for row in rows for tag in row.topics} - set(known):
        name = min(unknown)
        raise TopicLoraError(
            f"data.topics has a topic {name!r} that is not in the graph.",
            f"{nearest(name, known)} Or leave such topics out: unknown_topics: drop.",
        )


def induced(recipe: Recipe, encoder: Encoder, rows: Sequence[Row]) -> tuple[Taxonomy, tuple[Tensor, list[tuple[str]]]]:
    """A taxonomy found in some of the prompts, and of those the embeddings (n, f) and topic tags."""
    prompts = [row.prompt for row in _drawn(rows, recipe)]
    embeddings = encoder.encode(prompts)
    taxonomy, tags = induce_taxonomy(prompts, embeddings, recipe.graph.induced_topics, seed=recipe.seed)
    return taxonomy, (embeddings, tags)


def calibrated(recipe: Recipe, graph: TopicGraph, encoder: Encoder, rows: Sequence[Row]) -> TopicGraph:
    """Fit the query projector on some of the prompts, by their tags where they have any."""
    drawn = _drawn(rows, recipe)
    if not drawn:
        return graph
    tags = [row.topics for row in drawn]
    return calibrate(graph, encoder.encode([row.prompt for row in drawn]), tags if any(tags) else None)


def _drawn(rows: Sequence[Row], recipe: Recipe) -> list[Row]:
    # Data sets are often sorted by task; their first rows would show few topics.
    return random.Random(recipe.seed).sample(rows, min(recipe.graph.tagged_prompts, len(rows)))


def held_out_examples(recipe: Recipe, base: BaseModel, limit: int) -> list[Encoded]:
    """About `limit` examples to measure on: those of data.validation, else the families' validation split, else the
    last of the training examples.
    """
    data = recipe.data
    if data.validation is None and data.source == EMBEDDED:
        few = data.model_copy(update={"per_family": max(1, limit // len(FAMILIES))})
        return encode(recipe, base, load_rows(few, seed=recipe.seed, split="validation")[-limit:])
    examples = training_data(recipe)
    return encode(recipe, base, examples.validation[:limit] or examples.train[-limit:])


def calibration_rows(recipe: Recipe) -> list[Row]:
    """The training examples over which an export's gates are averaged.

    Raises TopicLoraError for a topic that no example carries.
    """
    rows = training_data(recipe).train
    if topic := gates_topic(recipe):
        tagged = [row for row in rows if topic in row.topics]
        if not tagged:
            known = {name for row in rows for name in row.topics}
            raise TopicLoraError(f"No training example carries the topic {topic!r}.", nearest(topic, known))
        rows = tagged
    return rows[: recipe.merge.calibration]


def gates_topic(recipe: Recipe) -> str | None:
    """The topic an export is for, None for mean gates; raises TopicLoraError for any other `merge.gates`."""
    kind, _, topic = recipe.merge.gates.partition(":")
    if kind == "topic" and topic:
        return topic
    if recipe.merge.gates != "mean":
        raise TopicLoraError(f"merge.gates {recipe.merge.gates!r} is unknown.", "Use 'mean' or 'topic:NAME'.")
    return None


def make_batches(base: BaseModel, encoded: Sequence[Encoded], *, tokens: str | None = None) -> list[dict[str, Tensor]]:
    """Padded batches in the given order, labelled on the completions whatever the recipe trains on.

    With `tokens` ("prompt" or "all") they carry a token_mask and no labels.
    """
    collate = Collator(base.tokenizer.pad_token_id)
    batches = []
    for start in range(0, len(encoded), BATCH):
        rows = [{"input_ids": e.input_ids, "prompt_length": e.prompt_length} for e in encoded[start : start + BATCH]]
        batch = {key: value.to(base.model.device) for key, value in collate(rows).items()}
        prompt_mask = batch.pop("prompt_mask")
        if tokens is not None:
            del batch["labels"]
            batch["token_mask"] = prompt_mask if tokens == "prompt" else batch["attention_mask"]
        batches.append(batch)
    return batches
