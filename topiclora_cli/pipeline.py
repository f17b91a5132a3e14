"""The stages of a run as functions: each takes a recipe, a run directory and a display, and returns a typed result."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors import SafetensorError

from topiclora_cli.adapters.observe import observe_gates
from topiclora_cli.adapters.perft import NO_MERGE
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.evaluation.harness import EvalRequest, make_task_manager, run_harness
from topiclora_cli.evaluation.results import summary
from topiclora_cli.evaluation.routing import RoutingReport, routing_report
from topiclora_cli.files import read_json, replacing, write_json
from topiclora_cli.inputs import (
    calibrated,
    calibration_rows,
    gates_topic,
    held_out_examples,
    induced,
    make_batches,
    open_base,
    open_encoder,
)
from topiclora_cli.merging.collapse import collapse_to_lora
from topiclora_cli.merging.gap import Gap, answer_log_probabilities, measure_gap
from topiclora_cli.models import BaseModel, use_bfloat16
from topiclora_cli.processes import in_first, process_index
from topiclora_cli.progress import Progress
from topiclora_cli.recipe import Recipe
from topiclora_cli.rundir import RunDir
from topiclora_cli.topics.experts import assignment_report, separation_report
from topiclora_cli.topics.fit import fit_topic_graph
from topiclora_cli.topics.graph import adjacency
from topiclora_cli.topics.graphml import write_graphml
from topiclora_cli.topics.plot import plot_graph
from topiclora_cli.topics.projector import calibrate
from topiclora_cli.topics.store import TopicGraph
from topiclora_cli.topics.taxonomy import load_taxonomy
from topiclora_cli.topics.validate import LinkReport, link_report
from topiclora_cli.training.data import encode_rows, load_rows
from topiclora_cli.training.fit import Priors, TrainResult, save_adapter, train_adapter
from topiclora_cli.training.optional import require_libraries
from topiclora_cli.training.priors import cached_priors

ADAPTER, GRAPH, PRIORS = "adapter", "graph", "graph/priors"


@dataclass(frozen=True)
class GraphResult:
    """Stage 1: where the graph lies, and its report."""

    folder: Path
    graph: TopicGraph
    report: dict[str, Any]


@dataclass(frozen=True)
class MergeResult:
    """An export with fixed gates: its folders by format, and the measured gap to the routed model."""

    gates: str
    folders: dict[str, Path]
    gap: Gap
    calibration: int
    held_out: int


def build_graph(recipe: Recipe, run: RunDir, progress: Progress) -> GraphResult:
    """Stage 1: topics -> experts. Raises TopicLoraError for a bad taxonomy or more experts than topics."""
    section = recipe.graph
    encoder, tagged = None, None
    if section.taxonomy == "induced":
        progress.say("Looking for topics in the training prompts ...")
        encoder = open_encoder(recipe)
        taxonomy, tagged = induced(recipe, encoder)
    else:
        taxonomy = load_taxonomy(section.taxonomy, min_tasks=section.min_tasks, exclude_tasks=section.exclude_tasks)
    if recipe.adapter.num_experts > len(taxonomy.names):
        raise TopicLoraError(
            f"adapter.num_experts ({recipe.adapter.num_experts}) exceeds the {len(taxonomy.names)} topics.",
            "Lower it, or have more topics: lower graph.min_tasks, or raise graph.induced_topics if induced.",
        )
    encoder = encoder or open_encoder(recipe)
    with run.running("graph") as record:
        features = encoder.encode(taxonomy.texts)
        with progress.track("build-graph", section.steps) as advance:
            graph = fit_topic_graph(
                taxonomy,
                features,
                encoder_id=encoder.id,
                num_experts=recipe.adapter.num_experts,
                gnn=section.gnn,
                layers=section.layers,
                width=section.width,
                neighbours=section.neighbours,
                npmi_weight=section.npmi_weight,
                separation=section.separation,
                control=section.control,
                steps=section.steps,
                seed=recipe.seed,
                on_step=lambda *_: advance(1, ""),
            )
        graph = calibrate(graph, *tagged) if tagged else calibrated(recipe, graph, encoder)
        folder = run.path / GRAPH
        graph.save(folder)
        links = link_report(graph, features, share=section.hold_out) if section.hold_out else None
        report = graph_report(graph, links)
        write_json(folder / "report.json", report)
        plot_graph(graph, folder / "graph.png")
        write_graphml(graph, folder / "graph.graphml")
        record.update(topics=graph.num_topics, experts=graph.num_experts, sha256=graph.sha256)
    return GraphResult(folder, graph, report)


def open_graph(run: RunDir) -> GraphResult:
    """Stage 1's result as an earlier call left it."""
    folder = run.require(GRAPH, made_by="build-graph")
    report = read_json(folder / "report.json", hint="Run build-graph again.")
    return GraphResult(folder, TopicGraph.load(folder), report)


def graph_report(graph: TopicGraph, links: LinkReport | None = None) -> dict[str, Any]:
    """Separation of the expert vectors, quality of the assignment and of hidden links, as plain numbers."""
    weight = adjacency(graph.edge_index, graph.edge_weight, graph.num_topics)
    owners = graph.assignment.argmax(1)
    return {
        "topics": graph.num_topics,
        "experts": graph.num_experts,
        "edges": graph.edge_index.shape[1] // 2,
        "separation": asdict(separation_report(graph.expert_vectors)),
        "assignment": asdict(assignment_report(graph.assignment, weight)),
        "links": asdict(links) if links else None,
        "topics_by_expert": {
            e: [name for name, owner in zip(graph.topics, owners.tolist(), strict=True) if owner == e]
            for e in range(graph.num_experts)
        },
    }


def train(recipe: Recipe, run: RunDir, progress: Progress, *, resume: bool = False) -> TrainResult:
    """Stages 2 and 3: priors, then router and experts under the dual loss.

    Raises TopicLoraError for bad data or targets, and training.fit.Interrupted after a signal.
    """
    if run.is_done("train") and not resume:
        raise TopicLoraError(f"{run.path} is trained already.", "Start a new run with --out, or evaluate this one.")
    require_libraries(recipe)
    graph = TopicGraph.load(run.require(GRAPH, made_by="build-graph")) if recipe.needs_graph else None
    base = open_base(recipe)
    encoded = encode_rows(load_rows(recipe.data, seed=recipe.seed), base.tokenizer, max_length=recipe.data.max_length)
    priors: Priors | None = None
    extra: dict[str, Any] = {}
    if graph is not None:
        prompts = [example.row.prompt for example in encoded]
        priors = in_first(
            lambda: cached_priors(graph, open_encoder(recipe, base), prompts, run.path / PRIORS, progress)
        )
        extra = {"anchors": graph.expert_vectors.tolist(), "graph_sha256": graph.sha256}
        extra = extra if recipe.adapter.router == "topic" else {}
    with _recorded(run, "train") as record:
        result = train_adapter(
            base, encoded, recipe, folder=run.path, priors=priors, resume=resume, progress=progress, **extra
        )
        if graph is not None and process_index() == 0:
            graph.save(run.path / ADAPTER / "topic_graph")
        record.update(asdict(result))
    return result


def _recorded(run: RunDir, stage: str) -> AbstractContextManager[dict[str, Any]]:
    # Processes that train together write one manifest.
    return run.running(stage) if process_index() == 0 else nullcontext({})


def evaluate(recipe: Recipe, run: RunDir, progress: Progress) -> dict[str, Any]:
    """Base and tuned model on the same questions, through lm-eval; plus routing by topic on the held-out split."""
    section = recipe.eval
    request = EvalRequest(
        tasks=section.tasks,
        limit=section.limit,
        num_fewshot=section.num_fewshot,
        batch_size=section.batch_size,
        include_path=section.include_path,
        bfloat16=use_bfloat16(recipe.train.precision),
    )
    manager = make_task_manager(request)
    run.require(ADAPTER, made_by="train")
    with run.running("eval") as record:
        base_results = None
        folder = run.path / "eval"
        if section.base:
            progress.say("Evaluating the base model ...")
            base = open_base(recipe)
            base_results = run_harness(
                base.model, base.tokenizer, request, label="base", output_path=folder, manager=manager
            )
        progress.say("Evaluating the tuned model ...")
        base, model = load_tuned(recipe, run)
        tuned = run_harness(model, base.tokenizer, request, label="tuned", output_path=folder, manager=manager)
        result = summary(base_results, tuned)
        result["routing"] = None
        if report := observe_routing(recipe, base, model):
            result["routing"] = asdict(report)
        write_json(folder / "summary.json", result)
        record.update({k: v for k, v in result.items() if isinstance(v, float)})
    return result


def observe_routing(recipe: Recipe, base: BaseModel, model: PeftModel, *, limit: int = 128) -> RoutingReport | None:
    """Routing by topic on held-out tagged prompts; None for a plain LoRA or untagged data."""
    encoded = [e for e in held_out_examples(recipe, base, limit) if e.row.topics]
    gates = observe_gates(
        model, make_batches(base, encoded, tokens="prompt"), bfloat16=use_bfloat16(recipe.train.precision)
    )
    return routing_report(gates, [e.row.topics for e in encoded])


def merge(recipe: Recipe, run: RunDir, progress: Progress) -> MergeResult:
    """Fix the gates, export a stock LoRA and a dense model, and measure how far the export is from the routed model."""
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
    topic, rows = gates_topic(recipe), calibration_rows(recipe)
    base, model = load_tuned(recipe, run)
    with run.running("merge") as record:
        calibration = encode_rows(rows, base.tokenizer, max_length=recipe.data.max_length)
        progress.say(f"Observing the routing of {len(calibration)} prompts ...")
        observed = observe_gates(model, make_batches(base, calibration, tokens="all"), bfloat16=bfloat16)
        gates = {name: values.mean(0) for name, values in observed.items()}
        examples = held_out_examples(recipe, base, section.calibration)
        # An export for one topic is judged on that topic, where held-out examples carry it.
        examples = [e for e in examples if topic in e.row.topics] or examples
        held_out = make_batches(base, examples)
        routed = answer_log_probabilities(model, held_out, bfloat16=bfloat16)
        lora = collapse_to_lora(model, open_base(recipe, exact=True).model, gates)
        gap = measure_gap(routed, answer_log_probabilities(lora, held_out, bfloat16=bfloat16))
        folders: dict[str, Path] = {format_: run.path / "merged" / format_ for format_ in section.formats}
        if "lora" in folders:
            save_adapter(lora, folders["lora"])
        if "dense" in folders:
            with replacing(folders["dense"]) as temporary:
                lora.merge_and_unload().save_pretrained(temporary)
                base.tokenizer.save_pretrained(temporary)
        result = MergeResult(section.gates, folders, gap, len(calibration), len(examples))
        record.update(gates=section.gates, kl=gap.kl, agreement=gap.agreement)
        write_json(run.path / "merged" / "gap.json", {"gates": section.gates, **asdict(gap)})
    return result


def load_tuned(recipe: Recipe, run: RunDir, base: BaseModel | None = None) -> tuple[BaseModel, PeftModel]:
    """The base, loaded unless given, with the run's adapter on it; raises TopicLoraError for a damaged adapter."""
    folder = run.require(ADAPTER, made_by="train")
    base = base or open_base(recipe)
    try:
        model = PeftModel.from_pretrained(base.model, folder)
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise TopicLoraError(f"The adapter in {folder} cannot be read: {reason}", "Train it again.") from None
    return base, model.eval()
