"""What makes several LoRAs by topic a bundle: the topic graph beside them, and which of them is for which topic."""

from collections.abc import Mapping
from pathlib import Path

from topiclora_cli.merging.collapse import PlainLora
from topiclora_cli.recipe import Recipe
from topiclora_cli.runs.results.bundle import BUNDLE, Bundle, BundleAdapter
from topiclora_cli.runs.results.files import write_result
from topiclora_cli.stages.gates import MEAN, FixedGates
from topiclora_cli.topics.store import TopicGraph


def write_bundle(
    recipe: Recipe, base: str, loras: Mapping[str, PlainLora], found: FixedGates, graph: Path, folder: Path
) -> None:
    """Put the graph and the manifest of the LoRAs under `folder`/lora beside them; base: as others call it."""
    known = TopicGraph.load(graph)
    known.save(folder / "topic_graph")
    adapters = tuple(
        BundleAdapter(name, f"lora/{name}", plain.rank, found.topics[name]) for name, plain in loras.items()
    )
    bundle = Bundle(
        base=base,
        model=recipe.model.name,
        encoder=known.encoder_id,
        default=MEAN,
        max_rank=max(adapter.rank for adapter in adapters),
        adapters=adapters,
        topics=topic_map(known, found),
        upcycled=recipe.model.upcycle is not None,
        precision=recipe.train.precision,
    )
    write_result(folder / BUNDLE, bundle)


def topic_map(graph: TopicGraph, found: FixedGates) -> dict[str, str]:
    """Every topic of the graph -> the name of its LoRA; topics that no example carries take the mean's."""
    own = {topic: name for name, topics in found.topics.items() for topic in topics}
    return {topic: own.get(topic, MEAN) for topic in graph.topics}
