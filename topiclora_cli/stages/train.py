"""The stages of a run as functions: each takes a recipe, a run directory and a display, and returns a typed result."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from topiclora_cli.data import Encoded
from topiclora_cli.data.load import FIRST
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.models.base import BaseModel
from topiclora_cli.recipe import Recipe, differences, load_recipe, with_experts
from topiclora_cli.recipe.adapter import ExpertsSection
from topiclora_cli.reporting.data import show
from topiclora_cli.runs.commands import command_line
from topiclora_cli.runs.processes import in_first, process_index
from topiclora_cli.runs.progress import Progress
from topiclora_cli.runs.results.training import TrainResult
from topiclora_cli.runs.run import RECIPE, RunDir
from topiclora_cli.stages.inputs import (
    GRAPH,
    TRAINED_GRAPH,
    open_base,
    open_encoder,
)
from topiclora_cli.stages.stage import stage
from topiclora_cli.stages.training_data import encode, encode_data, training_data, training_stream
from topiclora_cli.topics.prior import TopicPrior
from topiclora_cli.topics.store import TopicGraph
from topiclora_cli.training.arguments import check_settings
from topiclora_cli.training.callbacks import Watch
from topiclora_cli.training.checkpoints import checkpoints_in
from topiclora_cli.training.columns import Examples, Priors
from topiclora_cli.training.fit import train_adapter
from topiclora_cli.training.optional import require_libraries
from topiclora_cli.training.priors import cached_priors, refuse_even_priors

PRIORS = "graph/priors"


def train(
    recipe: Recipe,
    run: RunDir,
    progress: Progress,
    *,
    resume: bool = False,
    watch: Watch | None = None,
    kept_priors: Path | None = None,
) -> TrainResult:
    """Stages 2 and 3: priors, then router and experts under the dual loss.

    kept_priors: the folder where several runs find priors that one of them has made; None: beside the run's own graph.
    A training that is finished stays as it is: to resume it says so and returns its result. Raises TopicLoraError for
    bad data or targets, for what would train a finished run otherwise, errors.Interrupted after a signal, and
    errors.Hopeless where `watch` gives up.
    """
    if run.is_done("train"):
        return _finished(recipe, run, progress, resume=resume)
    require_libraries(recipe)
    graph = TopicGraph.load(run.require(GRAPH, made_by="build-graph")) if recipe.needs_graph else None
    if graph is not None and recipe.adapter.graph_experts == "auto":
        recipe = with_experts(recipe, graph.num_experts)
    data = training_data(recipe)
    check_settings(recipe, validates=bool(data.validation))
    base = open_base(recipe)
    streaming = recipe.data.streaming
    encoded, reports = encode_data(recipe, base.tokenizer, data)
    held_out = encode(recipe, base.tokenizer, data.validation) if data.validation else []
    show(reports, progress, title="Training data" + (f", the first {FIRST} examples of each source" * streaming))
    stream, prior, priors, validation_priors = None, None, None, None
    extra: dict[str, Any] = {}
    if graph is not None:
        # Those of a stream are made as its examples come.
        prior = TopicPrior(graph, open_encoder(recipe, base)) if streaming else None
        priors, validation_priors = _priors(
            recipe, graph, base, [[] if streaming else encoded, held_out], kept_priors or run.path / PRIORS, progress
        )
        if priors is not None:
            refuse_even_priors(priors[1], recipe.loss)
        extra = {"anchors": graph.expert_vectors.tolist(), "graph_sha256": graph.sha256}
        routed = isinstance(recipe.adapter, ExpertsSection) and recipe.adapter.router == "topic"
        extra = extra if routed else {}
    if streaming:
        stream = training_stream(recipe, base.tokenizer, prior)
    with stage(run, "train", recipe, spent=_spent(run) if resume else 0.0) as running:
        result = train_adapter(
            base,
            stream or Examples(encoded, priors),
            recipe,
            folder=run.path,
            resume=resume,
            progress=progress,
            held_out=Examples(held_out, validation_priors) if held_out else None,
            watch=watch,
            **extra,
        )
        if graph is not None and process_index() == 0:
            graph.save(run.path / TRAINED_GRAPH)
        running.result = result = replace(result, data=tuple(reports))
    return result


def _finished(recipe: Recipe, run: RunDir, progress: Progress, *, resume: bool) -> TrainResult:
    """The result of a training that is done; raises TopicLoraError unless that is all that is asked for."""
    result = run.manifest.trained
    changes = differences(load_recipe(str(run.path / RECIPE)), recipe)
    asked = [part for key, value in changes.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    again = command_line("train", "--recipe", run.path / RECIPE, *asked, "--out", "NEW")
    if not resume:
        raise TopicLoraError(f"{run.path} is trained already.", f"Evaluate it, or train a new run: {again}")
    if changes:
        raise TopicLoraError(
            f"{run.path} is trained to its end, without {', '.join(changes)} as given now.", f"Train a new run: {again}"
        )
    if result is None:
        raise TopicLoraError(f"{run.path} is trained already, by an earlier version.", f"Train a new run: {again}")
    length = "epochs" if recipe.train.max_steps is None else "max_steps"
    longer = f"train.{length}={2 * getattr(recipe.train, length):g}"
    command = command_line("train", "--recipe", run.path / RECIPE, "--set", longer, "--out", "NEW")
    progress.say(f"{run.path} is trained to its end, {result.steps:,} steps. To train longer, start anew: {command}")
    return result


def _spent(run: RunDir) -> float:
    """Seconds that went into a training up to the checkpoint that it resumes from, as far as anybody knows."""
    record, checkpoints = run.stage("train"), checkpoints_in(run.path / "checkpoints")
    if record is None or not checkpoints:
        return 0.0
    before = record.seconds or 0.0
    if record.state == "running":  # it was killed, after its last sign of life
        before += max(0.0, checkpoints[-1].stat().st_mtime - datetime.fromisoformat(record.started).timestamp())
    return before


def _priors(
    recipe: Recipe,
    graph: TopicGraph,
    base: BaseModel,
    groups: Sequence[Sequence[Encoded]],
    folder: Path,
    progress: Progress,
) -> list[Priors | None]:
    """The priors of each group of examples, None of an empty one; the first process makes them for all."""

    def make() -> list[Priors | None]:
        encoder = open_encoder(recipe, base)
        prompts = [[example.row.prompt for example in group] for group in groups]
        return [cached_priors(graph, encoder, texts, folder, progress) if texts else None for texts in prompts]

    return in_first(make)
