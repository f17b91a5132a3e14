"""Per-topic exports side by side, as what serves them reads it."""

from collections.abc import Mapping
from dataclasses import dataclass

BUNDLE = "bundle.json"  # written last: a folder without it is no finished bundle


@dataclass(frozen=True)
class BundleAdapter:
    """One stock LoRA of a bundle; folder: within the bundle's; topics: those whose prompts it is for."""

    name: str
    folder: str
    rank: int
    topics: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bundle:
    """A stock LoRA for each topic, and which of them a prompt is for.

    base: what others load, a hub id or a path. model: what `load_base` loads, for encoder `lm`. encoder: the topic
    graph's. default: the adapter of prompts about no topic of training. topics: every topic of the graph -> an
    adapter's name.
    """

    base: str
    model: str
    encoder: str
    default: str
    max_rank: int
    adapters: tuple[BundleAdapter, ...]
    topics: Mapping[str, str]
    upcycled: bool = False
    precision: str = "float32"
