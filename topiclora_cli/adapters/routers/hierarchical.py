"""HMoRA's router: the token's own choice below, the task's above, both in between."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topiclora_cli.adapters.routers.base import Decision, Pool, Router, RouterSettings, biases, weights

# Beyond these shares of the task router, one of the two stands alone.
_ALONE_BELOW, _ALONE_ABOVE = 0.2, 0.8


class HierarchicalRouter(Router):
    """(1 - a) softmax(W x + b) + a softmax(mean of V x + c over the prompt), a rising with depth (HMoRA, ICLR 2025).

    a = sigma(alpha), alpha learned, from -2 in the first layer to 2 in the last; a layer that starts with a below 0.2
    has the token's router alone, one above 0.8 the task's. Renormalised gates are a softmax over the k largest
    probabilities themselves, as in the authors' code, which leaves the two of k = 2 between 0.27 and 0.73. HMoRA
    encodes the task with a network of its own; here the prompt's mean score stands for it.
    """

    takes_prior = False

    token_weight: Tensor
    token_bias: Tensor
    task_weight: Tensor
    task_bias: Tensor

    def __init__(self, settings: RouterSettings) -> None:
        super().__init__(settings)
        alpha = 4.0 * settings.depth - 2.0
        share = 1 / (1 + math.exp(-alpha))
        self.first_version = settings.version == 1
        self.by_token = self.first_version or share <= _ALONE_ABOVE
        self.by_task = self.first_version or share >= _ALONE_BELOW
        for part, present in (("token", self.by_token), ("task", self.by_task)):
            if present:
                setattr(self, f"{part}_weight", weights(settings, settings.num_experts, settings.in_features))
            if present and not self.first_version:
                setattr(self, f"{part}_bias", biases(settings, settings.num_experts, settings.in_features))
        if self.by_token and self.by_task:
            self.alpha = nn.Parameter(torch.tensor(alpha))

    def projection(self) -> Tensor:
        if self.by_token and self.by_task:
            return torch.cat([self.token_weight, self.task_weight])
        return self.token_weight if self.by_token else self.task_weight

    def settle_scores(self, projected: Tensor, pool: Pool) -> Decision:
        experts = self.settings.num_experts
        parts: dict[str, Any] = {}
        if self.by_token:
            parts["token"] = projected[..., :experts]
        if self.by_task:
            parts["task"] = pool(projected[..., -experts:])
        if not self.first_version:
            parts = {part: scores + getattr(self, f"{part}_bias") for part, scores in parts.items()}
        shares = [score.log_softmax(-1) for score in parts.values()]
        if len(shares) == 1:
            return self.decide(shares[0])._replace(**parts)
        token, task = shares
        mixed = torch.logaddexp(F.logsigmoid(-self.alpha) + token, F.logsigmoid(self.alpha) + task)
        return self.decide(mixed)._replace(**parts)

    def decide(self, scores: Tensor) -> Decision:
        top_k = self.settings.top_k
        otherwise = self.first_version or self.settings.gate_weights != "renormalised"
        if otherwise or top_k is None or top_k == 1:
            return super().decide(scores)
        values, indices = self.chosen_by(scores).exp().topk(top_k, dim=-1)
        return Decision(scores, torch.zeros_like(scores).scatter(-1, indices, values.softmax(-1)))
