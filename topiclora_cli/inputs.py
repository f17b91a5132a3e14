"""What every stage starts from: the base model, the text encoder, the examples, and batches of them."""

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from topiclora_cli.errors import TopicLoraError, nearest
from topiclora_cli.models import BaseModel, load_base, store_weights_in_bfloat16, use_bfloat16
from topiclora_cli.recipe import Recipe
from topiclora_cli.tasks import FAMILIES
from topiclora_cli.topics.encoder import Encoder, make_encoder, portable
from topiclora_cli.topics.induce import induce_taxonomy
from topiclora_cli.topics.projector import calibrate
from topiclora_cli.topics.store import TopicGraph
from topiclora_cli.topics.taxonomy import Taxonomy
from topiclora_cli.training.collate import Collator
from topiclora_cli.training.data import Encoded, Row, encode_rows, load_rows

BATCH = 16


def open_base(recipe: Recipe, *, exact: bool = False) -> BaseModel:
    """The base model, ready to run; `exact` keeps every weight in the recipe's dtype, unquantised, for saving."""
    section = recipe.model
    base = load_base(
        section.name,
        dtype=section.dtype,
        revision=section.revision,
        trust_remote_code=section.trust_remote_code,
        upcycle=section.upcycle,
        quantization=None if exact else section.quantization,
    )
    if use_bfloat16(recipe.train.precision) and not exact:
        store_weights_in_bfloat16(base.model)
    if torch.cuda.is_available() and (exact or section.quantization is None):
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
    variant += f"+{recipe.model.quantization}" if recipe.model.quantization else ""
    return make_encoder(
        f"lm:{portable(recipe.model.name)}{variant}",
        model=base.model,
        tokenizer=base.tokenizer,
        bf16=use_bfloat16(recipe.train.precision),
    )


def induced(recipe: Recipe, encoder: Encoder) -> tuple[Taxonomy, tuple[Tensor, list[tuple[str]]]]:
    """A taxonomy found in the training prompts, and of those it was found in the embeddings (n, f) and topic tags."""
    rows, section = load_rows(recipe.data, seed=recipe.seed), recipe.graph
    # Data sets are often sorted by task; their first rows would show few topics.
    drawn = random.Random(recipe.seed).sample(rows, min(section.tagged_prompts, len(rows)))
    prompts = [row.prompt for row in drawn]
    embeddings = encoder.encode(prompts)
    taxonomy, tags = induce_taxonomy(prompts, embeddings, section.induced_topics, seed=recipe.seed)
    return taxonomy, (embeddings, tags)


def calibrated(recipe: Recipe, graph: TopicGraph, encoder: Encoder) -> TopicGraph:
    """Fit the query projector on the training prompts, by their tags where they have any."""
    if recipe.graph.tagged_prompts == 0:
        return graph
    rows = load_rows(recipe.data, seed=recipe.seed)[: recipe.graph.tagged_prompts]
    tags = [row.topics for row in rows]
    if unknown := {tag for topics in tags for tag in topics} - set(graph.topics):
        name = min(unknown)
        raise TopicLoraError(f"data.topics has a topic {name!r} that is not in the graph.", nearest(name, graph.topics))
    return calibrate(graph, encoder.encode([row.prompt for row in rows]), tags if any(tags) else None)


def held_out_examples(recipe: Recipe, base: BaseModel, limit: int) -> list[Encoded]:
    """About `limit` examples to measure on: the families' validation split, else the source's last rows."""
    data = recipe.data
    if data.source == "quickstart":
        few = data.model_copy(update={"per_family": max(1, limit // len(FAMILIES))})
        rows = load_rows(few, seed=recipe.seed, split="validation")
    else:
        rows = load_rows(data, seed=recipe.seed)
    return encode_rows(rows[-limit:], base.tokenizer, max_length=data.max_length)


def calibration_rows(recipe: Recipe) -> list[Row]:
    """The training examples over which an export's gates are averaged.

    Raises TopicLoraError for a topic that no example carries.
    """
    rows = load_rows(recipe.data, seed=recipe.seed)
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
