"""Keys of the topic router: expert vectors from stage 1, or points as far apart as can be."""

import torch
import torch.nn.functional as F
from torch import Tensor


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
