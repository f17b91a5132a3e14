"""What every stage starts from: the models, the text encoder, the topic graph, the examples, and batches."""

import random
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice, zip_longest
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel, PeftType
from peft.utils import SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedModel

import topiclora_cli.adapters  # noqa: F401 -- registers the methods that load_tuned reads
from topiclora_cli.adapters.observe import autocast
from topiclora_cli.data import Encoded, Row
from topiclora_cli.errors import TopicLoraError, first_line
from topiclora_cli.models.base import BaseModel, base_source, load_base
from topiclora_cli.models.content import base_content
from topiclora_cli.models.lent import Lender
from topiclora_cli.models.names import UPCYCLED, name_for_others
from topiclora_cli.models.precision import rounded_head, store_weights_in_bfloat16, use_bfloat16
from topiclora_cli.recipe import Recipe, load_recipe
from topiclora_cli.runs.cache import cache_dir
from topiclora_cli.runs.files import read_json
from topiclora_cli.runs.held import held, is_holding
from topiclora_cli.runs.progress import Progress
from topiclora_cli.runs.run import RECIPE, RunDir
from topiclora_cli.stages.training_data import refuse_unknown_topics
from topiclora_cli.topics.encoder import Encoder, LmEncoder, SentenceEncoder, make_encoder, portable
from topiclora_cli.topics.induce import induce_taxonomy
from topiclora_cli.topics.prior import TopicPrior
from topiclora_cli.topics.projector import Prompts
from topiclora_cli.topics.store import META_FILE, TopicGraph
from topiclora_cli.topics.tag_noise import with_noise
from topiclora_cli.topics.taxonomy import Taxonomy
from topiclora_cli.topics.vector_cache import CachedEncoder
from topiclora_cli.training.collate import Collator
from topiclora_cli.training.padding import masks_padding

BATCH = 16
GRAPH, ADAPTER, TRAINED_GRAPH = "graph", "adapter", "adapter/topic_graph"


def open_base(recipe: Recipe, *, exact: bool = False) -> BaseModel:
    """The base model, ready to run; `exact` keeps every weight in the recipe's dtype, unquantised, for saving.

    A process that holds what it has loaded lends it again, untouched.
    """
    section = recipe.model
    if exact or section.quantization is not None or section.trust_remote_code or not is_holding():
        return _open_base(recipe, exact=exact)
    key = (base_content(section), section.model_dump_json(), use_bfloat16(recipe.train.precision))
    lender = held("base", key, lambda: Lender(_open_base(recipe)), sound=Lender.pristine)
    return lender.lend()


def _open_base(recipe: Recipe, *, exact: bool = False) -> BaseModel:
    section = recipe.model
    base = load_base(
        section.name,
        dtype=section.dtype,
        revision=section.revision,
        trust_remote_code=section.trust_remote_code,
        upcycle=section.upcycle,
        quantization=None if exact else section.quantization,
    )
    bfloat16 = use_bfloat16(recipe.train.precision)
    if bfloat16 and not exact:
        store_weights_in_bfloat16(base.model)
    if torch.cuda.is_available() and (exact or section.quantization is None):
        base.model.to("cuda")  # type: ignore[arg-type]
    return base if exact else replace(base, masks_padding=masks_padding(base.model, bfloat16=bfloat16))


@contextmanager
def answering(recipe: Recipe, base: PreTrainedModel) -> Iterator[None]:
    """A block in which the base, and an adapter on it, writes one answer in the recipe's precision."""
    bfloat16 = use_bfloat16(recipe.train.precision)
    with autocast(bfloat16, base.device), rounded_head(base, bfloat16=bfloat16):
        yield


def load_tuned(recipe: Recipe, run: RunDir, base: BaseModel | None = None) -> tuple[BaseModel, PeftModel]:
    """The base, loaded unless given, with the run's adapter on it.

    Raises TopicLoraError for a damaged adapter, and for one that was trained on another base.
    """
    folder = adapter_folder(recipe, run)
    base = base or open_base(recipe)
    return base, with_adapter(base, folder)


def with_adapter(base: BaseModel, folder: Path, *, trains: bool = False) -> PeftModel:
    """The adapter of a folder on the base, in evaluation mode; raises TopicLoraError for a damaged one.

    trains: whether it is to be trained on.
    """
    # peft would look for them in a hub, under the folder's name.
    if not any((folder / name).exists() for name in (SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME)):
        raise TopicLoraError(f"The adapter in {folder} has no {SAFETENSORS_WEIGHTS_NAME}.", "Train it again.")
    try:
        if PeftConfig.from_pretrained(str(folder)).peft_type == PeftType.XLORA:
            base.model.config.use_cache = False  # it runs the model twice for each token, and peft refuses a cache
        model = PeftModel.from_pretrained(base.model, folder, is_trainable=trains)
    except TopicLoraError:
        raise
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError) as error:
        reason = first_line(error)
        raise TopicLoraError(f"The adapter in {folder} cannot be read: {reason}", "Train it again.") from None
    return model.eval()


def adapter_folder(recipe: Recipe, run: RunDir) -> Path:
    """The run's adapter; raises TopicLoraError where there is none, or where the recipe names another base than its."""
    folder = run.require(ADAPTER, made_by="train")
    config = read_json(folder / "adapter_config.json", hint="Train it again.")
    trained_on = config.get("base_model_name_or_path")
    section = recipe.model
    here = base_source(section.name, section.upcycle, revision=section.revision)
    named = name_for_others(section.name, here, upcycled=section.upcycle is not None)
    if trained_on and trained_on != named and not same_base(trained_on, here) and not _made_alike(recipe, run):
        hint = f"Add --set model.name={shlex.quote(trained_on)}."
        if trained_on.startswith(UPCYCLED):
            hint = f"Set model.name and model.upcycle as they are in {run.path / RECIPE}."
        raise TopicLoraError(
            f"The adapter in {folder} was trained on {trained_on}, and the recipe's model.name is {here}.",
            f"{hint} If that base has moved, say so in adapter_config.json.",
        )
    return folder


def _made_alike(recipe: Recipe, run: RunDir) -> bool:
    """Whether the recipe and the run's own upcycle one dense model in one way, whose files may have got other times:
    the name of what is made of it here goes by these, too."""
    if recipe.model.upcycle is None:
        return False
    trained = load_recipe(str(run.path / RECIPE)).model
    return recipe.model.upcycle == trained.upcycle and same_base(recipe.model.name, trained.name)


def same_base(one: str, other: str) -> bool:
    """Whether two names may mean one model: a folder that is gone from here, or one that is made from others at any
    time, is known by its last name alone."""
    first, second = Path(one), Path(other)
    if first.is_dir() and second.is_dir() and not second.is_relative_to(cache_dir()):
        return first.samefile(second)
    return first.name == second.name


def open_encoder(recipe: Recipe, base: BaseModel | None = None) -> Encoder:
    """The text encoder of the topic graph; `lm` reads the base model, which is loaded unless given.

    Vectors that a model makes are kept in the cache.
    """
    encoder = make_text_encoder(recipe, base)
    if isinstance(encoder, LmEncoder | SentenceEncoder):
        return CachedEncoder(encoder, cache_dir() / "vectors")
    return encoder


def make_text_encoder(recipe: Recipe, base: BaseModel | None = None) -> Encoder:
    """The text encoder of the topic graph, which keeps nothing."""
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


def induced(recipe: Recipe, encoder: Encoder, rows: Sequence[Row]) -> tuple[Taxonomy, Prompts]:
    """A taxonomy found in some of the prompts, and those, each tagged with its topic."""
    prompts = [row.prompt for row in in_turns(rows, recipe)]
    embeddings = encoder.encode(prompts)
    taxonomy, tags = induce_taxonomy(prompts, embeddings, recipe.graph.induced_topics, seed=recipe.seed)
    return taxonomy, Prompts(embeddings, tags)


def in_turns(rows: Sequence[Row], recipe: Recipe) -> list[Row]:
    """At most graph.tagged_prompts of the rows at random, in turn from each kind: rows that carry the same topics.

    By size alone a few large tasks would leave two or three prompts to each of the others.
    """
    kinds: dict[tuple[str, ...], list[Row]] = {}
    for row in random.Random(recipe.seed).sample(rows, len(rows)):
        kinds.setdefault(row.topics, []).append(row)
    turns = (row for turn in zip_longest(*kinds.values()) for row in turn if row is not None)
    return list(islice(turns, recipe.graph.tagged_prompts))


def graph_folder(run: RunDir, progress: Progress) -> Path | None:
    """Folder of the topic graph that the run's adapter was trained with, else of the run's own; None without any.

    Says so where the run's own was built anew after training: the adapter does not know it.
    """
    built, trained = run.path / GRAPH, run.path / TRAINED_GRAPH
    if not trained.exists():
        return built if built.exists() else None
    if built.exists() and _sha256(built) != _sha256(trained):
        progress.say(f"Warning: {built} was built anew after training; what is used is the adapter's own, {trained}.")
    return trained


def _sha256(graph: Path) -> str:
    return read_json(graph / META_FILE, hint="Run build-graph again.").get("sha256", "")


def with_topics(recipe: Recipe, rows: Sequence[Row], graph: Path | None) -> list[Row]:
    """Rows with the topics to go by: the data's own, or, where it has none or topics were induced, the one a prompt is
    most about.

    graph: the folder of `graph_folder`.
    """
    if graph is None or (recipe.graph.taxonomy != "induced" and any(row.topics for row in rows)):
        return list(rows)
    known = TopicGraph.load(graph)
    best = TopicPrior(known, open_encoder(recipe))([row.prompt for row in rows]).relevance.argmax(1).tolist()
    return [replace(row, topics=(known.topics[topic],)) for row, topic in zip(rows, best, strict=True)]


def tagged_prompts(recipe: Recipe, encoder: Encoder, taxonomy: Taxonomy, rows: Sequence[Row]) -> Prompts | None:
    """Some of the training prompts with their topics, and the taxonomy's examples; None for fewer than two in all.

    Of graph.tag_noise of the prompts the topics are dealt out anew.

    Raises TopicLoraError for a tag that is no topic of the taxonomy.
    """
    refuse_unknown_topics(rows, taxonomy.tags)
    drawn = in_turns(rows, recipe)
    tags = with_noise([row.topics for row in drawn], recipe.graph.tag_noise, seed=recipe.seed)
    texts = [(row.prompt, taxonomy.topics_of(topics)) for row, topics in zip(drawn, tags, strict=True)]
    texts += [(example, (topic,)) for topic, examples in taxonomy.examples.items() for example in examples]
    if len(texts) < 2:
        return None
    told = [topics for _, topics in texts]
    return Prompts(encoder.encode([text for text, _ in texts]), told if any(told) else None)


def make_batches(base: BaseModel, encoded: Sequence[Encoded], *, tokens: str | None = None) -> list[dict[str, Tensor]]:
    """Padded batches in the given order, each with a prompt_mask, labelled on the completions whatever is trained on.

    With `tokens` ("prompt" or "all") they carry a token_mask and no labels. A base that selects logits is asked for
    those before a labelled token alone, or, where there are no labels, for the last one's.
    """
    collate = Collator(base.tokenizer.pad_token_id, select_logits=base.selects_logits)
    batches = []
    size = BATCH if base.masks_padding else 1
    for start in range(0, len(encoded), size):
        rows = [
            {"input_ids": e.input_ids, "prompt_length": e.prompt_length, "weights": e.turn_weights}
            for e in encoded[start : start + size]
        ]
        batch = {key: value.to(base.model.device) for key, value in collate(rows).items()}
        batch.pop("shift_labels", None)
        if tokens is not None:
            del batch["labels"]
            batch["token_mask"] = batch["prompt_mask"] if tokens == "prompt" else batch["attention_mask"]
            if base.selects_logits:
                batch["logits_to_keep"] = torch.zeros_like(batch["token_mask"], dtype=torch.bool)
                batch["logits_to_keep"][:, -1] = True
        batches.append(batch)
    return batches
