"""Routers that choose for every token how many experts take part."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topiclora_cli.adapters.routers.base import Decision, Router, RouterSettings, biases, weights
from topiclora_cli.adapters.selection import in_proportion, sparsegen

# At the start of LD-MoLE's network: both of its biases. Its last one makes 1 - lambda about 2.6.
_SPARSEGEN_BIAS = -2.5


class ThresholdRouter(Router):
    """Softmax over W x, cut at a learned threshold sigma(w x + b) / E (AdaMoLE, arXiv 2405.00361)."""

    chooses_itself = True
    takes_prior = False

    def __init__(self, settings: RouterSettings) -> None:
        super().__init__(settings)
        self.weight = weights(settings, settings.num_experts, settings.in_features)
        self.threshold_weight = weights(settings, 1, settings.in_features)
        self.threshold_bias = biases(settings, 1, settings.in_features)

    def projection(self) -> Tensor:
        return torch.cat([self.weight, self.threshold_weight])

    def read(self, projected: Tensor) -> Tensor:
        return torch.cat([self.tempered(projected[..., :-1]), projected[..., -1:] + self.threshold_bias], -1)

    def decide(self, scores: Tensor) -> Decision:
        logits, threshold = scores[..., :-1], scores[..., -1:]
        excess = self.chosen_by(logits).softmax(-1) - threshold.sigmoid() / self.settings.num_experts
        return Decision(logits, in_proportion(excess), excess=excess)


class SparsegenRouter(Router):
    """Projection of W x onto the simplex, as sparse as a small network of x decides (LD-MoLE, arXiv 2509.25684).

    lambda = 0.99 + logsigmoid(v relu(V x + c) + d), c and d at -2.5 in the beginning, so that lambda starts at -1.59
    and five of eight experts are active. The reference shares such a network among all layers of one width; here each
    router has its own, of `width` hidden units, since an adapter's state lives in its layers.
    """

    chooses_itself = True
    takes_prior = False

    def __init__(self, settings: RouterSettings) -> None:
        super().__init__(settings)
        self.weight = weights(settings, settings.num_experts, settings.in_features)
        self.hidden_weight = weights(settings, settings.width, settings.in_features)
        self.hidden_bias = nn.Parameter(torch.full((settings.width,), _SPARSEGEN_BIAS))
        self.out_weight = weights(settings, 1, settings.width)
        self.out_bias = nn.Parameter(torch.full((1,), _SPARSEGEN_BIAS))

    def projection(self) -> Tensor:
        return torch.cat([self.weight, self.hidden_weight])

    def read(self, projected: Tensor) -> Tensor:
        logits, hidden = projected.split([self.settings.num_experts, self.settings.width], -1)
        activation = F.gelu if self.settings.version == 1 else F.relu
        hidden = activation(hidden + self.hidden_bias)
        return torch.cat(
            [self.tempered(logits), F.linear(hidden, self.out_weight.to(hidden.dtype)) + self.out_bias], -1
        )

    def decide(self, scores: Tensor) -> Decision:
        logits, out = scores[..., :-1], scores[..., -1:]
        sharpness = F.softplus(out) + 1e-3 if self.settings.version == 1 else F.softplus(-out) + 0.01
        return Decision(logits, sparsegen(self.chosen_by(logits), sharpness))
