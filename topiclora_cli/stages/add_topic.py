"""A new topic in a trained run: a node in its graph, an expert of its own, and routers that know when it is at hand.

The run stays as it is; what comes out is a run beside it. Old experts, keys and router rows are frozen. The new router
rows are fitted on old and new prompts in closed form; then the new expert and its rows train on the new data, by the
language-modelling loss and the divergence from the grown graph's prior; at the end biases are lowered where training
has let the new expert into old prompts.
"""

import random
import shutil
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from peft import PeftModel

from topiclora_cli.adapters.grow import with_expert
from topiclora_cli.adapters.newest import Batch, Chosen, NewestExpert
from topiclora_cli.data import Encoded, Row
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.models.base import BaseModel
from topiclora_cli.models.precision import use_bfloat16
from topiclora_cli.recipe import Recipe, dump_recipe
from topiclora_cli.reporting.data import show
from topiclora_cli.runs.files import replacing, write_text
from topiclora_cli.runs.progress import Progress
from topiclora_cli.runs.results.record import AddedTopic
from topiclora_cli.runs.results.training import TrainResult
from topiclora_cli.runs.run import LOCK, RunDir
from topiclora_cli.stages.growing import Mixture, free_path, open_mixture, write_mixture
from topiclora_cli.stages.growing_data import growing_recipe, grown_recipe, stand_ins
from topiclora_cli.stages.inputs import (
    ADAPTER,
    GRAPH,
    TRAINED_GRAPH,
    make_batches,
    open_base,
    open_encoder,
    with_adapter,
)
from topiclora_cli.stages.train import PRIORS
from topiclora_cli.stages.training_data import encode, encode_data, training_data
from topiclora_cli.topics.grow import Grown, refuse_known, texts_with, with_topic
from topiclora_cli.topics.taxonomy import Topic
from topiclora_cli.training.columns import Examples
from topiclora_cli.training.fit import train_adapter
from topiclora_cli.training.priors import cached_priors
from topiclora_cli.training.saving import save_adapter

_MOST = 512  # old, and new, examples that the projector and the routers are fitted on
_ENOUGH = 2**14  # tokens of either for the routers, of whose examples every fifth is to measure on
_TOKENS = 512  # of a batch whose layers' inputs are all kept


@dataclass(frozen=True)
class Added:
    """The new run, what was added, and its training."""

    run: RunDir
    facts: AddedTopic
    training: TrainResult


def add_topic(
    recipe: Recipe,
    run: RunDir,
    progress: Progress,
    *,
    topic: Topic,
    data: str,
    overrides: Iterable[tuple[str, Any]] = (),
    out: Path | None = None,
) -> Added:
    """Make a run with one topic more at `out`, or beside the run, which stays as it is.

    data: what a recipe's `data.source` names, whose examples are the topic's; overrides: dotted keys of this training
    with their values. Raises TopicLoraError for a topic that is there, for data without usable rows, and for a run in
    whose mixture topics cannot come and go; Interrupted after a signal. Nothing is left at `out` unless all is done.
    """
    mixture = open_mixture(recipe, run)
    refuse_known(mixture.graph, topic.name)
    path = free_path(run, out, "+", topic.name)
    growing = growing_recipe(recipe, topic.name, data, mixture.config.num_experts + 1, overrides)
    rows = training_data(growing)
    base = open_base(growing)
    encoded, reports = encode_data(growing, base.tokenizer, rows)
    held_out = encode(growing, base.tokenizer, rows.validation) if rows.validation else []
    show(reports, progress, title=f"Examples of {topic.name}")
    old, rehearsed = _old_rows(recipe, mixture, topic.name, progress)
    encoder = open_encoder(growing, base)
    features = encoder.encode(texts_with(mixture.graph, topic))
    prompts, others = (encoder.encode([row.prompt for row in part]) for part in (rows.train[:_MOST], old))
    grown = with_topic(mixture.graph, topic, features, prompts, others)
    nearest = ", ".join(name for name, _ in grown.nearest)
    progress.say(f"{topic.name!r} is nearest to {nearest}; its expert is number {grown.graph.num_experts - 1}.")
    with replacing(path) as temporary, ExitStack() as held:
        made = RunDir.create(
            temporary,
            recipe_yaml=dump_recipe(grown_recipe(recipe, growing)),
            name=recipe.name,
            seed=recipe.seed,
        )
        grown.graph.save(temporary / GRAPH)
        write_text(temporary / "recipes" / "train.yaml", dump_recipe(growing))
        priors = [
            cached_priors(grown.graph, encoder, [each.row.prompt for each in part], temporary / PRIORS, progress)
            if part
            else None
            for part in (encoded, held_out)
        ]
        attaching = _Attaching(mixture, grown, temporary / "start", held, progress)
        attaching.sets = _sets(base, encode(growing, base.tokenizer, old), encoded)
        with made.running("add-topic") as adding, made.running("train", recipe="recipes/train.yaml") as training:
            result = train_adapter(
                base,
                Examples(encoded, priors[0]),
                growing,
                folder=temporary,
                resume=False,
                progress=progress,
                held_out=Examples(held_out, priors[1]) if held_out else None,
                attach=attaching,
            )
            training.result = result = replace(result, data=tuple(reports))
            chosen = attaching.finish()
            assert attaching.model is not None
            save_adapter(attaching.model, temporary / ADAPTER, about=base.about)
            grown.graph.save(temporary / TRAINED_GRAPH)
            adding.result = facts = AddedTopic(
                topic=topic.name,
                to=run.path.name,
                data=growing.data.label,
                examples=len(encoded),
                expert=grown.graph.num_experts - 1,
                nearest=nearest,
                trained=attaching.trained,
                rehearsed=rehearsed,
                relevance_own=grown.relevance[0],
                relevance_others=grown.relevance[1],
                prior_moved=grown.moved,
                chosen_old=chosen.old,
                chosen_new=chosen.new,
                silent=chosen.silent,
                routers=chosen.routers,
            )
        for left in ("checkpoints", "start"):
            shutil.rmtree(temporary / left, ignore_errors=True)
        (temporary / LOCK).unlink(missing_ok=True)
    return Added(RunDir(path), facts, result)


@dataclass(frozen=True)
class _Sets:
    """Batches of old and of new examples, to fit routers on and to measure them on."""

    old: Sequence[Batch]
    new: Sequence[Batch]
    other_old: Sequence[Batch]
    other_new: Sequence[Batch]


class _Attaching:
    """Puts the grown adapter on the base, in the place of a fresh one, with its newest expert alone to train."""

    sets: _Sets

    def __init__(self, mixture: Mixture, grown: Grown, folder: Path, held: ExitStack, progress: Progress) -> None:
        self._mixture, self._grown, self._folder = mixture, grown, folder
        self._held, self._progress, self._topic = held, progress, grown.graph.topics[-1]
        self.model: PeftModel | None = None
        self.trained = 0

    def __call__(self, base: BaseModel, recipe: Recipe, **_: Any) -> PeftModel:
        """As `attach_adapter` is called."""
        graph = self._grown.graph
        tensors, config = with_expert(self._mixture.tensors, self._mixture.config, graph.expert_vectors)
        write_mixture(self._folder, tensors, replace(config, graph_sha256=graph.sha256, inference_mode=False))
        self.model = with_adapter(base, self._folder, trains=True)
        self._newest = NewestExpert(self.model, bfloat16=use_bfloat16(recipe.train.precision))
        with self._progress.track("fitting the routers", 1) as advance:
            self._newest.fit_router_rows(self.sets.old, self.sets.new)
            advance(1, "")
        self._training = self._held.enter_context(ExitStack())
        self.trained = self._training.enter_context(self._newest.alone_trains())
        self._progress.say(f"Trained are {self.trained:,} parameters, those of the new expert and its router rows.")
        return self.model

    def finish(self) -> Chosen:
        """Put back what is frozen, hold the new expert off old prompts again, and see where it is chosen."""
        self._training.close()
        self._newest.lower_biases(self.sets.old)
        self._newest.leave_off(self.sets.new)
        chosen = self._newest.chosen(self.sets.other_old, self.sets.other_new)
        if chosen.silent == chosen.routers:
            self._progress.say(
                f"Warning: no router tells the prompts of {self._topic!r} from old ones, so the new expert takes part "
                "nowhere. Give it more examples, and more of one kind."
            )
        return chosen


def _old_rows(recipe: Recipe, mixture: Mixture, topic: str, progress: Progress) -> tuple[list[Row], int]:
    """Some of the run's own examples at random, and their number; where there are none any more, stand-ins, and 0.

    Examples of the topic itself, which may have been in the run and gone, are not what it is told from.
    """
    try:
        rows = [row for row in training_data(recipe).train if topic not in row.topics]
        lacking = "" if rows else "are all of this topic."
    except TopicLoraError as error:
        lacking = f"cannot be read: {error.message}"
    if lacking:
        progress.say(
            f"Warning: the run's own examples {lacking} The descriptions of its topics stand for them, and old prompts "
            "may choose the new expert more often; check the old topics' scores."
        )
        return stand_ins(mixture.graph), 0
    rows = random.Random(recipe.seed).sample(rows, min(_MOST, len(rows)))
    return rows, len(rows)


def _sets(base: BaseModel, old: Sequence[Encoded], new: Sequence[Encoded]) -> _Sets:
    batches = []
    for examples in (old, new):
        part = _first(examples[:_MOST])
        others = part[::5] if len(part) > 5 else part
        fitted = [each for place, each in enumerate(part) if place % 5] if len(part) > 5 else part
        batches += [_batches(base, fitted), _batches(base, others)]
    return _Sets(batches[0], batches[2], batches[1], batches[3])


def _first(examples: Sequence[Encoded]) -> Sequence[Encoded]:
    """As many of the first as have _ENOUGH tokens together."""
    ends = accumulate(len(each.input_ids) for each in examples)
    return examples[: 1 + sum(end < _ENOUGH for end in ends)]


def _batches(base: BaseModel, examples: Sequence[Encoded]) -> list[Batch]:
    """Batches of like lengths, of at most _TOKENS tokens unless one example has more."""
    found: list[Batch] = []
    rows: list[Encoded] = []
    for example in sorted(examples, key=lambda each: len(each.input_ids)):
        if rows and len(example.input_ids) * (len(rows) + 1) > _TOKENS:
            found += make_batches(base, rows, tokens="all")
            rows = []
        rows.append(example)
    return [*found, *make_batches(base, rows, tokens="all")]
