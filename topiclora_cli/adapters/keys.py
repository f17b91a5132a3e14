"""Keys of the topic router: expert vectors from stage 1, or points as far apart as can be."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from topiclora_cli.errors import TopicLoraError


def check_anchors(anchors: Sequence[Sequence[float]], experts: Sequence[int]) -> None:
    """Raises TopicLoraError unless the anchors are finite vectors of one length, as many as each number of experts."""
    if any(count != len(anchors) for count in experts):
        raise TopicLoraError(
            f"{len(anchors)} anchors do not fit num_experts ({', '.join(map(str, sorted(set(experts))))}).",
            "Rebuild the graph with that number of experts, or change adapter.num_experts.",
        )
    if len({len(anchor) for anchor in anchors}) != 1 or not anchors[0]:
        raise TopicLoraError("The anchors are not vectors of one length.", "Rebuild the graph.")
    if not all(math.isfinite(value) for anchor in anchors for value in anchor):
        raise TopicLoraError("The anchors hold NaN or infinity.", "Rebuild the graph.")


def keys_from_anchors(anchors: Tensor) -> Tensor:
    """Rotate expert vectors (E, d) into their span: keys (E, E) with the same inner products."""
    left, singular, _ = torch.linalg.svd(anchors.double(), full_matrices=False)
    keys = left * singular
    padding = anchors.shape[0] - keys.shape[1]
    return F.pad(keys, (0, padding)).to(torch.float32)


def simplex(num_experts: int) -> Tensor:
    """Keys (E, E) as far apart as E unit vectors can be: pairwise cosine -1/(E-1)."""
    if num_experts == 1:
        return torch.ones(1, 1)
    return F.normalize(torch.eye(num_experts) - 1.0 / num_experts, dim=-1)
