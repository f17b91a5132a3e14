"""The stages of a run as functions: each takes a recipe, a run directory and a display, and returns a typed result."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from topiclora_cli.adapters.observe import observe_gates
from topiclora_cli.adapters.perft import NO_MERGE
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.examples import encode, training_data, training_stream
from topiclora_cli.files import replacing, write_json
from topiclora_cli.inputs import (
    ADAPTER,
    GRAPH,
    TRAINED_GRAPH,
    asked_for,
    calibration_rows,
    gates_topic,
    graph_folder,
    held_out_examples,
    load_tuned,
    make_batches,
    open_base,
    open_encoder,
)
from topiclora_cli.merging.collapse import collapse_to_lora
from topiclora_cli.merging.gap import Gap, answer_log_probabilities, measure_gap
from topiclora_cli.models import BaseModel, use_bfloat16
from topiclora_cli.naming import named_folder
from topiclora_cli.processes import in_first, process_index
from topiclora_cli.progress import Progress
from topiclora_cli.recipe import Recipe, with_experts
from topiclora_cli.rundir import RunDir
from topiclora_cli.topics.prior import TopicPrior
from topiclora_cli.topics.store import TopicGraph
from topiclora_cli.training.arguments import check_settings
from topiclora_cli.training.columns import Priors
from topiclora_cli.training.data import Encoded
from topiclora_cli.training.data.load import FIRST
from topiclora_cli.training.data.report import show, source_reports
from topiclora_cli.training.fit import TrainResult, save_adapter, train_adapter
from topiclora_cli.training.optional import require_libraries
from topiclora_cli.training.priors import cached_priors, refuse_even_priors

PRIORS, GAP = "graph/priors", "gap.json"


@dataclass(frozen=True)
class MergeResult:
    """An export with fixed gates: its folders by format, and the measured gap to the routed model."""

    gates: str
    folders: dict[str, Path]
    gap: Gap
    calibration: int
    held_out: int


def train(recipe: Recipe, run: RunDir, progress: Progress, *, resume: bool = False) -> TrainResult:
    """Stages 2 and 3: priors, then router and experts under the dual loss.

    Raises TopicLoraError for bad data or targets, and training.fit.Interrupted after a signal.
    """
    if run.is_done("train") and not resume:
        raise TopicLoraError(f"{run.path} is trained already.", "Start a new run with --out, or evaluate this one.")
    require_libraries(recipe)
    graph = TopicGraph.load(run.require(GRAPH, made_by="build-graph")) if recipe.needs_graph else None
    if graph is not None and recipe.adapter.num_experts == "auto":
        recipe = with_experts(recipe, graph.num_experts)
    data = training_data(recipe)
    check_settings(recipe, validates=bool(data.validation))
    base = open_base(recipe)
    streaming = recipe.data.streaming
    encoded = encode(recipe, base.tokenizer, data.train)
    held_out = encode(recipe, base.tokenizer, data.validation) if data.validation else []
    reports = source_reports(data, encoded)
    show(reports, progress, title="Training data" + (f", the first {FIRST} examples of each source" * streaming))
    stream, prior, priors, validation_priors, extra = None, None, None, None, {}
    if graph is not None:
        # Those of a stream are made as its examples come.
        prior = TopicPrior(graph, open_encoder(recipe, base)) if streaming else None
        priors, validation_priors = _priors(
            recipe, graph, base, [[] if streaming else encoded, held_out], run.path / PRIORS, progress
        )
        if priors is not None:
            refuse_even_priors(priors[1], recipe.loss)
        extra = {"anchors": graph.expert_vectors.tolist(), "graph_sha256": graph.sha256}
        extra = extra if recipe.adapter.router == "topic" else {}
    if streaming:
        stream = training_stream(recipe, base.tokenizer, prior)
    with _recorded(run, "train") as record:
        result = train_adapter(
            base,
            stream or encoded,
            recipe,
            folder=run.path,
            priors=priors,
            resume=resume,
            progress=progress,
            validation=held_out,
            validation_priors=validation_priors,
            **extra,
        )
        if graph is not None and process_index() == 0:
            graph.save(run.path / TRAINED_GRAPH)
        record.update(asdict(result), data=[report.as_dict() for report in reports])
    return result


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


def _recorded(run: RunDir, stage: str) -> AbstractContextManager[dict[str, Any]]:
    # Processes that train together write one manifest.
    return run.running(stage) if process_index() == 0 else nullcontext({})


def merge(recipe: Recipe, run: RunDir, progress: Progress, *, name: str | None = None) -> MergeResult:
    """Fix the gates, export a stock LoRA and a dense model, and measure how far the export is from the routed model.

    The export lies in `merged/NAME`, named after its gates unless told otherwise; no other one is touched.
    """
    section = recipe.merge
    if recipe.adapter.layer == "perft":
        raise TopicLoraError(*NO_MERGE)
    if recipe.adapter.layer != "mixture":
        raise TopicLoraError("The adapter is no mixture and needs no fixed gates.", "Use peft's merge_and_unload.")
    if recipe.adapter.mixing == "ffn":
        raise TopicLoraError(
            "Experts mixed after a non-linearity (adapter.mixing: ffn) equal no LoRA, even with fixed gates.",
            "Serve the adapter itself.",
        )
    bfloat16 = use_bfloat16(recipe.train.precision)
    run.require(ADAPTER, made_by="train")
    graph = graph_folder(run, progress)
    topic, rows = gates_topic(recipe), calibration_rows(recipe, graph)
    base, model = load_tuned(recipe, run)
    request = asked_for(recipe, run, "merge", "data")
    folder = named_folder(run.path / "merged", name, default=section.gates, request=request)
    with run.running("merge") as record:
        calibration = encode(recipe, base.tokenizer, rows)
        progress.say(f"Observing the routing of {len(calibration)} prompts ...")
        observed = observe_gates(model, make_batches(base, calibration, tokens="all"), bfloat16=bfloat16)
        gates = {name: values.mean(0) for name, values in observed.items()}
        examples = held_out_examples(recipe, base, section.calibration, graph)
        # An export for one topic is judged on that topic, where held-out examples carry it.
        examples = [e for e in examples if topic in e.row.topics] or examples
        held_out = make_batches(base, examples)
        routed = answer_log_probabilities(model, held_out, bfloat16=bfloat16)
        lora = collapse_to_lora(model, open_base(recipe, exact=True).model, gates)
        gap = measure_gap(routed, answer_log_probabilities(lora, held_out, bfloat16=bfloat16))
        folders: dict[str, Path] = {format_: folder / format_ for format_ in section.formats}
        if "lora" in folders:
            save_adapter(lora, folders["lora"])
        if "dense" in folders:
            with replacing(folders["dense"]) as temporary:
                lora.merge_and_unload().save_pretrained(temporary)
                base.tokenizer.save_pretrained(temporary)
        result = MergeResult(section.gates, folders, gap, len(calibration), len(examples))
        record.update(name=folder.name, gates=section.gates, kl=gap.kl, agreement=gap.agreement)
        write_json(folder / GAP, {"gates": section.gates, **asdict(gap)})
    return result
