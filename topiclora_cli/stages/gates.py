"""The fixed gates that an export asks for: of prompts, of topics, of one expert, or fitted to the routed model."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from peft import PeftModel
from torch import Tensor

from topiclora_cli.adapters.fixed import gates_of_layers, router_owners
from topiclora_cli.adapters.observe import observe_gates
from topiclora_cli.adapters.topiclora import TopicLoraLayer
from topiclora_cli.data import Encoded
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.merging.gap import Reference
from topiclora_cli.merging.gates import Gates
from topiclora_cli.merging.learn import learn_gates
from topiclora_cli.models.base import BaseModel
from topiclora_cli.models.precision import use_bfloat16
from topiclora_cli.recipe import Recipe
from topiclora_cli.runs.progress import Progress, tracked
from topiclora_cli.stages.inputs import make_batches
from topiclora_cli.stages.samples import by_length

LayerGates = Mapping[str, Tensor]  # adapted linear -> (E + S,)
MEAN = "mean"
# Topics whose gates differ by less than this, in the mean over layers and experts, share an export.
SAME = 0.01


@dataclass(frozen=True)
class FixedGates:
    """Gates of one export, or of several by name; topics: those that each of several is for. calibration: how many
    examples they come from."""

    by_name: Mapping[str, LayerGates]
    calibration: int = 0
    topics: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def needs_examples(asked: Gates) -> bool:
    """Whether gates come from examples."""
    return asked.kind not in ("uniform", "expert")


def find_gates(
    recipe: Recipe, asked: Gates, base: BaseModel, model: PeftModel, examples: Sequence[Encoded], progress: Progress
) -> FixedGates:
    """The gates of every adapted layer; examples: of `calibration_rows`, none where `needs_examples` says so.

    Raises TopicLoraError for an expert that there is not.
    """
    adapter = model.active_adapters[0]
    if not needs_examples(asked):
        owners = router_owners(model, adapter)
        chosen = {name: _without_examples(asked, layer, adapter) for name, layer in owners.items()}
        return FixedGates({asked.text: gates_of_layers(model, adapter, chosen)})
    if asked.kind != "learned":  # which are fitted on batches of all lengths
        examples = by_length(examples)
    bfloat16 = use_bfloat16(recipe.train.precision)
    batches = tracked(progress, "gates of examples", make_batches(base, examples, tokens="all"))
    observed = observe_gates(model, batches, bfloat16=bfloat16, shared=True)
    mean: LayerGates = {name: values.mean(0) for name, values in observed.items()}
    if asked.kind == "all":
        return _by_topic(observed, mean, examples)
    if asked.kind == "topics":
        parts = [(share, _mean_of(observed, examples, topic)) for topic, share in asked.topics.items()]
        mean = {name: sum((share * part[name] for share, part in parts), torch.zeros(())) for name in observed}
    if asked.kind == "learned":
        mean = _learned(recipe, base, model, examples, mean, progress)
    return FixedGates({asked.text: mean}, len(examples))


def _without_examples(asked: Gates, layer: TopicLoraLayer, adapter: str) -> Tensor:
    config = layer.topiclora_config[adapter]
    experts = config.num_experts
    if asked.kind == "uniform" or experts == 1:
        joined = config.shared_experts if config.shared_gate == "softmax" else 0
        return torch.full((experts + joined,), 1 / (experts + joined))
    if asked.expert >= experts:
        raise TopicLoraError(
            f"{layer.name} has no expert {asked.expert}.",
            f"Its experts are 0 to {experts - 1}, of which one is chosen.",
        )
    if config.shared_experts and config.shared_gate == "softmax":
        raise TopicLoraError(
            "One expert alone has no gate of its own where shared experts are in its softmax (shared_gate: softmax).",
            "Use topic:NAME, mean or learned.",
        )
    return torch.eye(experts)[asked.expert]


def _mean_of(observed: LayerGates, examples: Sequence[Encoded], topic: str) -> LayerGates:
    places = [place for place, example in enumerate(examples) if topic in example.row.topics]
    return {name: values[places].mean(0) for name, values in observed.items()}


def _learned(
    recipe: Recipe,
    base: BaseModel,
    model: PeftModel,
    examples: Sequence[Encoded],
    mean: LayerGates,
    progress: Progress,
) -> LayerGates:
    adapter = model.active_adapters[0]
    start = {}
    for name, layer in router_owners(model, adapter).items():
        config = layer.topiclora_config[adapter]
        start[name] = mean[name] if config.shared_gate == "softmax" else mean[name][: config.num_experts]
    with TemporaryDirectory() as folder:
        batches = make_batches(base, examples)
        reference = Reference(batches, Path(folder), bfloat16=use_bfloat16(recipe.train.precision))
        reference.write(model, tracked(progress, "answers to learn from", batches))
        steps = recipe.merge.steps
        gates = learn_gates(model, adapter, start, reference, steps=steps, progress=progress)
    return gates_of_layers(model, adapter, gates)


def _by_topic(observed: LayerGates, mean: LayerGates, examples: Sequence[Encoded]) -> FixedGates:
    """The mean gates, and those of each topic, or of several whose gates coincide."""
    topics = sorted({topic for example in examples for topic in example.row.topics})
    if not topics:
        raise TopicLoraError("No training example carries a topic.", "Use --gates mean.")
    flat = torch.cat(list(observed.values()), 1)
    own = [flat[[topic in example.row.topics for example in examples]].mean(0) for topic in topics]
    clusters: list[list[int]] = []
    for index in range(len(topics)):
        near = [c for c in clusters if float((own[c[0]] - own[index]).abs().mean()) < SAME]
        if near:
            near[0].append(index)
        else:
            clusters.append([index])
    by_name: dict[str, LayerGates] = {MEAN: mean}
    carried: dict[str, tuple[str, ...]] = {MEAN: ()}
    for cluster in clusters:
        members = tuple(topics[index] for index in cluster)
        rows = [not set(members).isdisjoint(example.row.topics) for example in examples]
        name = _free_name(members[0], by_name)
        by_name[name] = {layer: values[rows].mean(0) for layer, values in observed.items()}
        carried[name] = members
    return FixedGates(by_name, len(examples), carried)


def _free_name(topic: str, taken: Mapping[str, object]) -> str:
    """A topic as the name of a file, a URL and a server's adapter."""
    stem = re.sub(r"[^a-z0-9]+", "-", topic.lower()).strip("-") or "topic"
    names = (stem if number == 1 else f"{stem}-{number}" for number in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)
