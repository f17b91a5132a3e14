"""The topic graph as a file: everything stage 2 and the adapters need, and nothing that runs code.

`graph.safetensors` holds the tensors, `graph.json` the names and settings with the tensor file's sha256. The JSON is
written last, so a save cut short is found out at loading.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.runs.files import replacing, write_text

FORMAT_VERSION = 1
TENSOR_FILE, META_FILE = "graph.safetensors", "graph.json"
STANDS_FOR = "stands_for"  # in a graph's config: the topics that other tags mean
_REBUILD = "Run build-graph again."


@dataclass(frozen=True, eq=False)
class TopicGraph:
    """What stage 1 leaves behind: T topics, E experts, d the width of their vectors, f the width of text features."""

    topics: tuple[str, ...]
    descriptions: tuple[str, ...]
    groups: tuple[str, ...]
    topic_vectors: Tensor  # z (T, d), unit rows
    expert_vectors: Tensor  # c (E, d), unit rows
    assignment: Tensor  # S (T, E), rows sum to 1
    edge_index: Tensor  # (2, M) int64, both directions of every edge
    edge_weight: Tensor  # (M,)
    feature_mean: Tensor  # (f,)
    feature_scale: Tensor  # (f,)
    projector_weight: Tensor  # (f, T)
    projector_bias: Tensor  # (T,)
    encoder_id: str
    seed: int
    tasks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_topics(self) -> int:
        return len(self.topics)

    @property
    def num_experts(self) -> int:
        return self.expert_vectors.shape[0]

    @property
    def encoder_width(self) -> int:
        return self.projector_weight.shape[0]

    @property
    def place_of(self) -> dict[str, int]:
        """Where the topic of every tag stands, in node order: a topic's own name, or what stands for it."""
        place = {name: index for index, name in enumerate(self.topics)}
        return place | {tag: place[topic] for tag, topic in self.config.get(STANDS_FOR, {}).items()}

    @property
    def sha256(self) -> str:
        """Fingerprint of tensors, names and settings together; equal for a graph and its saved copy."""
        return self._meta(save_tensors(self._tensors()))["sha256"]

    def save(self, folder: str | Path) -> Path:
        """Write both files into `folder`, each in one step, and return the folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        content = save_tensors(self._tensors())
        meta = json.dumps(self._meta(content), indent=2, ensure_ascii=False) + "\n"
        with replacing(folder / TENSOR_FILE) as temporary:
            temporary.write_bytes(content)
        write_text(folder / META_FILE, meta)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> "TopicGraph":
        """Read a saved graph; raises TopicLoraError for missing, truncated, altered or other-version files."""
        folder = Path(folder)
        try:
            meta = json.loads((folder / META_FILE).read_text(encoding="utf-8"))
            content = (folder / TENSOR_FILE).read_bytes()
        except FileNotFoundError as error:
            raise TopicLoraError(
                f"{folder} holds no topic graph: {Path(error.filename).name} is missing.", _REBUILD
            ) from None
        except (OSError, ValueError) as error:
            raise TopicLoraError(f"{folder / META_FILE} cannot be read: {error}", _REBUILD) from None
        version = meta.get("format_version") if isinstance(meta, dict) else None
        if version != FORMAT_VERSION:
            raise TopicLoraError(f"{folder} has topic graph format {version}, not {FORMAT_VERSION}.", _REBUILD)
        if hashlib.sha256(content).hexdigest() != meta.get("tensors_sha256"):
            raise TopicLoraError(f"{folder / TENSOR_FILE} is damaged: its sha256 is not that of graph.json.", _REBUILD)
        if _fingerprint(meta) != meta.get("sha256"):
            raise TopicLoraError(f"{folder / META_FILE} was altered: its content does not match its sha256.", _REBUILD)
        try:
            graph = cls(
                **load_tensors(content),
                topics=tuple(meta["topics"]),
                descriptions=tuple(meta["descriptions"]),
                groups=tuple(meta["groups"]),
                encoder_id=meta["encoder_id"],
                seed=meta["seed"],
                tasks={task: tuple(tags) for task, tags in meta["tasks"].items()},
                config=meta["config"],
            )
        except (SafetensorError, KeyError, TypeError, AttributeError) as error:
            raise TopicLoraError(f"{folder} holds no valid topic graph: {error}", _REBUILD) from None
        problem = graph._problem()
        if problem:
            raise TopicLoraError(f"{folder} holds no valid topic graph: {problem}.", _REBUILD)
        return graph

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}
        return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}

    def _meta(self, tensor_file: bytes) -> dict[str, Any]:
        meta = {
            "format_version": FORMAT_VERSION,
            "tensors_sha256": hashlib.sha256(tensor_file).hexdigest(),
            "encoder_id": self.encoder_id,
            "encoder_width": self.encoder_width,
            "num_experts": self.num_experts,
            "seed": self.seed,
            "config": dict(self.config),
            "topics": list(self.topics),
            "descriptions": list(self.descriptions),
            "groups": list(self.groups),
            "tasks": {task: list(tags) for task, tags in self.tasks.items()},
        }
        return {**meta, "sha256": _fingerprint(meta)}

    def _problem(self) -> str:
        """The first inconsistency among the fields, or nothing."""
        if self.expert_vectors.ndim != 2 or self.projector_weight.ndim != 2:
            return "expert_vectors or projector_weight is no matrix"
        topics, (experts, width), features = self.num_topics, self.expert_vectors.shape, self.encoder_width
        wanted = {
            "topic_vectors": (topics, width),
            "assignment": (topics, experts),
            "edge_index": (2, self.edge_weight.numel()),
            "feature_mean": (features,),
            "feature_scale": (features,),
            "projector_weight": (features, topics),
            "projector_bias": (topics,),
        }
        for name, shape in wanted.items():
            found = tuple(getattr(self, name).shape)
            if found != shape:
                return f"{name} has shape {found}, not {shape}"
        for name, tensor in self._tensors().items():
            if not torch.isfinite(tensor).all():
                return f"{name} has values that are not finite"
        if len(self.descriptions) != topics or len(self.groups) != topics:
            return "descriptions or groups do not match the topics"
        if self.edge_index.numel() and not 0 <= int(self.edge_index.min()) <= int(self.edge_index.max()) < topics:
            return "edge_index points outside the topics"
        if not torch.allclose(self.assignment.sum(1), torch.ones(topics), atol=1e-4):
            return "rows of the assignment do not sum to 1"
        return ""


def _fingerprint(meta: Mapping[str, Any]) -> str:
    content = {key: value for key, value in meta.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode("utf-8")).hexdigest()
