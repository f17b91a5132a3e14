"""What an export by topic left: one stock LoRA for each topic or cluster of topics, and what chooses among them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class BundledAdapter:
    """One stock LoRA of a bundle.

    name: what a server knows it by, unique; folder: where it lies, relative to the bundle; topics: the graph's topics
    whose prompts it is for.
    """

    name: str
    folder: str
    rank: int
    topics: list[str]


@dataclass(frozen=True)
class Bundle:
    """Stock LoRAs by topic, as `bundle.json` in the bundle's folder holds them.

    base: the model under all of them, by the name that others know it by. graph, recipe: the topic graph that chooses
    among them and the recipe that says which encoder reads prompts for it, relative to the bundle. No two adapters are
    for one topic; a prompt about a topic that none is for goes to the next of its topics that has one.
    """

    base: str
    adapters: list[BundledAdapter]
    graph: str = "topic_graph"
    recipe: str = "recipe.yaml"
