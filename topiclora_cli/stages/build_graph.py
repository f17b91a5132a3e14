"""Stage 1 of a run: the taxonomy, what teaches the projector, the topic graph, and everything that is said about it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path

from torch import Tensor

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import Recipe, with_experts
from topiclora_cli.recipe.adapter import ExpertsSection
from topiclora_cli.reporting.topics_page import write_page
from topiclora_cli.reporting.topics_plot import plot_assignment, plot_cosines, plot_graph
from topiclora_cli.runs.naming import REPORT
from topiclora_cli.runs.progress import Progress
from topiclora_cli.runs.results.files import read_result, write_result
from topiclora_cli.runs.results.graph import Choice, GraphReport
from topiclora_cli.runs.results.record import GraphFacts
from topiclora_cli.runs.run import RunDir
from topiclora_cli.stages.inputs import GRAPH, induced, open_encoder, tagged_prompts
from topiclora_cli.stages.stage import record_graph_recipe, stage
from topiclora_cli.stages.training_data import named_taxonomy, training_data
from topiclora_cli.topics.attribution import attribution_report
from topiclora_cli.topics.choose import choose_experts, folds, numbers_to_try
from topiclora_cli.topics.compare import compare, fits_to_compare, seeds_to_compare
from topiclora_cli.topics.encoder import Encoder, reading
from topiclora_cli.topics.evidence import Evidence, gather_evidence
from topiclora_cli.topics.fit import fit_topic_graph
from topiclora_cli.topics.graph import build_graph as tie_topics
from topiclora_cli.topics.graph_report import graph_report
from topiclora_cli.topics.graphml import write_graphml
from topiclora_cli.topics.projector import TrainingPairs, gather_training_pairs
from topiclora_cli.topics.settings import GraphSettings
from topiclora_cli.topics.store import TopicGraph
from topiclora_cli.topics.taxonomy import Taxonomy
from topiclora_cli.topics.validate import link_report
from topiclora_cli.training.attach import refuse_contradictions


@dataclass(frozen=True)
class GraphResult:
    """Stage 1: where the graph lies, and its report."""

    folder: Path
    graph: TopicGraph
    report: GraphReport


def build_graph(recipe: Recipe, run: RunDir, progress: Progress) -> GraphResult:
    """Stage 1: topics -> experts; their number, if left open, is chosen here and written into the run's recipe.

    Raises TopicLoraError for a bad taxonomy, more experts than topics, none to choose from, and before anything is read
    for settings of the adapter that contradict one another.
    """
    refuse_contradictions(recipe.adapter)
    section = recipe.graph
    encoder = None
    rows = training_data(recipe).train if section.tagged_prompts else []
    if section.taxonomy == "induced":
        progress.say("Looking for topics in the training prompts ...")
        encoder = open_encoder(recipe)
        taxonomy, prompts = induced(recipe, encoder, rows)
    else:
        taxonomy, prompts = named_taxonomy(recipe), None
    experts, choice = recipe.adapter.graph_experts, None
    if experts == "auto":
        routed = recipe.adapter
        least = max(2, routed.top_k or 0, routed.shared_experts) if isinstance(routed, ExpertsSection) else 2
        numbers = numbers_to_try(len(taxonomy.names), least=least)
    elif experts > len(taxonomy.names):
        raise TopicLoraError(
            f"adapter.num_experts ({experts}) exceeds the {len(taxonomy.names)} topics.",
            "Lower it, or have more topics: "
            + (
                "set graph.level to topics."
                if section.level == "groups"
                else "lower graph.min_tasks, or raise graph.induced_topics if induced."
            ),
        )
    encoder = encoder or open_encoder(recipe)
    with stage(run, "graph", recipe) as running:
        texts = len(taxonomy.texts) + len(taxonomy.task_texts)
        if not prompts:
            texts += min(len(rows), section.tagged_prompts) + sum(map(len, taxonomy.examples.values()))
        with _reading_all(progress, encoder, texts):
            prompts = prompts or tagged_prompts(recipe, encoder, taxonomy, rows)
            features = encoder.encode(taxonomy.texts)
            tasks = encoder.encode(taxonomy.task_texts)
        pairs = gather_training_pairs(taxonomy, features, tasks, prompts)
        evidence = gather_evidence(pairs)
        if experts == "auto":
            choice = _choose(recipe, taxonomy, features, numbers, progress)
            experts = choice.experts
            recipe = with_experts(recipe, experts)
        with progress.track("topic graph", section.steps) as advance:
            steps = 0

            def moved(step: int, _: object) -> None:
                nonlocal steps
                steps = step + 1
                advance(1, "")

            graph = fit_topic_graph(
                taxonomy,
                features,
                graph_settings(recipe, experts),
                encoder_id=encoder.id,
                pairs=pairs,
                evidence=evidence,
                on_step=moved,
            )
            # A fit that finds no more ends before its last step.
            advance(section.steps - steps, f"settled after {steps}" if steps < section.steps else "")
        folder = run.path / GRAPH
        graph.save(folder)
        record_graph_recipe(run, recipe)
        report = _measure(recipe, graph, taxonomy, features, pairs, evidence, choice, progress)
        write_result(folder / REPORT, report)
        write_page(graph, report, folder / "report.html", title=recipe.name)
        plot_graph(graph, folder / "graph.png")
        plot_graph(graph, folder / "graph-dark.png", dark=True)
        plot_assignment(graph, folder / "assignment.png")
        plot_cosines(graph, folder / "cosines.png")
        write_graphml(graph, folder / "graph.graphml")
        running.result = GraphFacts(graph.num_topics, graph.num_experts, graph.sha256)
    return GraphResult(folder, graph, report)


@contextmanager
def _reading_all(progress: Progress, encoder: Encoder, texts: int) -> Iterator[None]:
    """A bar over what the encoder reads in the block; what a cache has, or no model reads, is done at its end."""
    done = 0
    with progress.track("reading topics and prompts", texts) as advance:

        def moved(number: int) -> None:
            nonlocal done
            done += number
            advance(number, "")

        with reading(encoder, moved):
            yield
        if done < texts:
            advance(texts - done, "")


def with_chosen_experts(recipe: Recipe, run: RunDir, progress: Progress) -> Recipe:
    """The recipe with a number for `auto`: the experts of the run's topic graph, which is built if there is none."""
    if recipe.adapter.graph_experts != "auto":
        return recipe
    result = open_graph(run) if run.is_done("graph") else build_graph(recipe, run, progress)
    return with_experts(recipe, result.graph.num_experts)


def graph_settings(recipe: Recipe, experts: int) -> GraphSettings:
    """What a recipe asks stage 1 to do, with a number of experts."""
    shared = recipe.graph.model_dump(include={each.name for each in fields(GraphSettings)})
    return GraphSettings(**shared, num_experts=experts, seed=recipe.seed)


def open_graph(run: RunDir) -> GraphResult:
    """Stage 1's result as an earlier call left it."""
    folder = run.require(GRAPH, made_by="build-graph")
    return GraphResult(folder, TopicGraph.load(folder), read_result(folder / REPORT, GraphReport))


def _choose(recipe: Recipe, taxonomy: Taxonomy, features: Tensor, numbers: Sequence[int], progress: Progress) -> Choice:
    # Whatever the control: what is compared with it has to have as many experts.
    settings = replace(graph_settings(recipe, numbers[0]), control="none")
    data = tie_topics(taxonomy, features.detach().float().cpu(), **settings.ties)
    with progress.track("number of experts", len(numbers) * folds(len(taxonomy.names))) as advance:
        choice = choose_experts(data, numbers, settings, on_fit=lambda n: advance(n, ""))
    progress.say(choice.reason)
    return choice


def _measure(
    recipe: Recipe,
    graph: TopicGraph,
    taxonomy: Taxonomy,
    features: Tensor,
    pairs: TrainingPairs,
    evidence: Evidence | None,
    choice: Choice | None,
    progress: Progress,
) -> GraphReport:
    section = recipe.graph
    links = link_report(graph, features, share=section.hold_out) if section.hold_out else None
    comparison = attribution = None
    if seeds := seeds_to_compare(section.compare_seeds, graph.num_topics):
        with progress.track("its controls", fits_to_compare(graph, seeds)) as advance:
            comparison = compare(
                graph, taxonomy, features, evidence=evidence, seeds=seeds, on_fit=lambda n: advance(n, "")
            )
        attribution = attribution_report(graph, taxonomy, features, pairs)
    elif section.compare_seeds is None:
        progress.say(f"{graph.num_topics} topics are not compared with controls; graph.compare_seeds=3 does it.")
    return graph_report(graph, links=links, comparison=comparison, attribution=attribution, choice=choice)
