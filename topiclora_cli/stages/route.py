"""One prompt's way through a run: the topics it is about, the prior over experts, and what the layers' routers do."""

from collections.abc import Mapping

import torch
from peft import PeftModel
from torch import Tensor

from topiclora_cli.adapters.observe import observe_gates
from topiclora_cli.adapters.topiclora.scope import layer_index
from topiclora_cli.data import Encoded, Row
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.evaluation.routing import mean_routing
from topiclora_cli.models.base import BaseModel
from topiclora_cli.models.precision import use_bfloat16
from topiclora_cli.recipe import Recipe
from topiclora_cli.runs.commands import command_line
from topiclora_cli.runs.progress import Progress
from topiclora_cli.runs.results.route import GateView, LayerGates, PromptRoute, TopicScore, TopicView
from topiclora_cli.runs.run import RunDir
from topiclora_cli.stages.inputs import GRAPH, graph_folder, load_tuned, make_batches, open_base, open_encoder
from topiclora_cli.topics.prior import TopicPrior
from topiclora_cli.topics.store import TopicGraph

TOPICS, TOPICS_PER_EXPERT = 8, 4


def route_prompt(recipe: Recipe, run: RunDir, prompt: str, progress: Progress) -> PromptRoute:
    """Follow one prompt through a topic graph and the adapter's routers, as far as the run has them.

    The graph is the one that the adapter was trained with, before training the run's own.
    Raises TopicLoraError for an empty or too long prompt, and for a run that has neither graph nor routers.
    """
    if not prompt.strip():
        raise TopicLoraError("The prompt is empty.", 'Example: topiclora route "What is 12 times 7?"')
    folder, trained = graph_folder(run, progress), run.adapter.exists()
    routed = trained and recipe.adapter.routes
    if trained and not (routed or folder):
        raise _nothing_to_show(recipe, run)
    if not trained:
        folder = run.require(GRAPH, made_by="build-graph")
    graph = TopicGraph.load(folder) if folder else None
    base = open_base(recipe) if routed else None
    # The graph's encoder may read the base, so this comes before the adapter goes on it.
    topics = None if graph is None else topic_view(TopicPrior(graph, open_encoder(recipe, base)), prompt)
    gates = None
    if base is not None:
        base, model = load_tuned(recipe, run, base)
        gates = _gate_view(recipe, base, model, prompt)
    if topics is None and gates is None:
        raise _nothing_to_show(recipe, run)
    return PromptRoute(prompt, topics, gates)


def _nothing_to_show(recipe: Recipe, run: RunDir) -> TopicLoraError:
    return TopicLoraError(
        f"{run.path} has no topic graph, and its adapter ({recipe.adapter.method}) has no routers.",
        f"Make a graph with: {command_line('build-graph', '--run', run.path)}",
    )


def topic_view(prior: TopicPrior, prompt: str) -> TopicView:
    """What a topic graph says of a prompt."""
    graph, result = prior.graph, prior([prompt])
    best = result.relevance[0].topk(min(TOPICS, graph.num_topics))
    leading = graph.assignment.topk(min(TOPICS_PER_EXPERT, graph.num_topics), dim=0).indices.T  # (E, k)
    return TopicView(
        topics=[
            TopicScore(graph.topics[topic], relevance)
            for topic, relevance in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ],
        prior=result.prior[0].tolist(),
        confidence=float(result.confidence[0]),
        experts=[[graph.topics[topic] for topic in row] for row in leading.tolist()],
    )


def _gate_view(recipe: Recipe, base: BaseModel, model: PeftModel, prompt: str) -> GateView | None:
    """None where every adapted module has one expert alone."""
    ids, longest = base.tokenizer(prompt)["input_ids"], recipe.data.max_length
    if not 1 <= len(ids) <= longest:
        raise TopicLoraError(
            f"The prompt has {len(ids)} tokens, not 1 to {longest} (data.max_length).", "Choose another."
        )
    encoded = Encoded(Row(prompt, ""), ids, len(ids))
    observed = observe_gates(
        model, make_batches(base, [encoded], tokens="prompt"), bfloat16=use_bfloat16(recipe.train.precision)
    )
    return gate_view(observed, len(ids))


def gate_view(observed: Mapping[str, Tensor], tokens: int) -> GateView | None:
    """Mean gates (1, E) of one example by adapted module, over so many tokens; None where nothing is routed."""
    # Some routers' gates do not sum to 1, and what is compared with a prior are shares.
    shares = {name: gates / gates.sum(-1, keepdim=True).clamp_min(1e-12) for name, gates in observed.items()}
    mean = mean_routing(shares)
    return None if mean is None else GateView(tokens, mean[0].tolist(), _by_layer(shares))


def _by_layer(shares: Mapping[str, Tensor]) -> list[LayerGates]:
    """Shares (1, E) of the routed modules, gathered by decoder layer in the order of execution."""
    members: dict[int | None, dict[str, Tensor]] = {}
    for name, values in shares.items():
        if values.shape[-1] > 1:
            members.setdefault(layer_index(name), {})[name] = values
    layers = []
    for layer, modules in members.items():
        mean = torch.cat(list(modules.values())).mean(0)
        layers.append(LayerGates(layer, mean.tolist(), {name: values[0].tolist() for name, values in modules.items()}))
    return layers
