"""How a token chooses among experts: scores from what a layer reads, and gates from those; in float32 throughout."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Chooser(nn.Module):
    """Gates (..., E), or (..., E + S) where S shared experts are part of the softmax, for what a layer reads.

    settings: `router`, the rule; `experts`, E; `joined`, S of one softmax; `top_k`, `top_p`, `weights` and
    `temperature`; `tensors`, the shape of each of its own, where "reads" is the width of what the layer reads.
    """

    # Which of them a rule has, its settings say.
    weight: Tensor
    bias: Tensor
    keys: Tensor
    adjacency: Tensor
    nodes: Tensor
    out: Tensor
    logits: Tensor
    hidden_bias: Tensor
    out_weight: Tensor
    out_bias: Tensor

    def __init__(self, settings: dict[str, Any], reads: int) -> None:
        super().__init__()
        self.settings = settings
        for name, numbers in settings["tensors"].items():
            shape = [reads if number == "reads" else number for number in numbers]
            self.register_parameter(name, nn.Parameter(torch.empty(shape), requires_grad=False))

    def forward(self, x: Tensor, lora_a: Tensor) -> Tensor:
        """The gates for x (..., d_in); lora_a (n, d_in): the experts' first factors, for the rule that reads A x."""
        with torch.autocast(x.device.type, enabled=False):
            x = x if x.dtype == torch.float64 else x.float()
            return getattr(self, f"_{self.settings['router']}")(x, lora_a)  # type: ignore[no-any-return]

    def _scores(self, x: Tensor, _: Tensor) -> Tensor:
        """The scores are a product of x, and a bias."""
        logits = F.linear(x, self.weight.to(x.dtype)) / self.settings["temperature"]
        if "bias" in self.settings["tensors"]:
            logits = logits + self.bias
        return self._select(logits)

    def _cosine(self, x: Tensor, lora_a: Tensor) -> Tensor:
        read = F.normalize(F.linear(x, lora_a.to(x.dtype)), dim=-1)
        keys = F.normalize(self.keys.to(x.dtype), dim=-1)
        return self._select(F.linear(read, keys) / self.settings["temperature"])

    def _graph(self, x: Tensor, _: Tensor) -> Tensor:
        """Two convolutions over the experts and the token, which is joined to all of them."""
        mixed = self.adjacency[:, :-1] @ self.nodes
        nodes = F.relu(mixed + F.linear(x, self.weight).unsqueeze(-2) * self.adjacency[:, -1:])
        return self._select((nodes @ self.out) @ self.adjacency[:-1].T / self.settings["temperature"])

    def _static(self, x: Tensor, _: Tensor) -> Tensor:
        return self._select(self.logits / self.settings["temperature"]).expand(*x.shape[:-1], -1)

    def _uniform(self, x: Tensor, _: Tensor) -> Tensor:
        experts = self.settings["experts"]
        return x.new_full((*x.shape[:-1], experts), 1 / experts)

    def _threshold(self, x: Tensor, _: Tensor) -> Tensor:
        """Each expert's excess over a threshold that the token sets."""
        scores = F.linear(x, self.weight)
        logits, threshold = scores[..., :-1] / self.settings["temperature"], scores[..., -1:] + self.bias
        excess = (logits.softmax(-1) - threshold.sigmoid() / self.settings["experts"]).clamp_min(0)
        return excess / excess.sum(-1, keepdim=True).clamp_min(torch.finfo(excess.dtype).tiny)

    def _sparsegen(self, x: Tensor, _: Tensor) -> Tensor:
        """The point of the simplex nearest to the scores, as sparse as a small network of x decides."""
        logits, hidden = F.linear(x, self.weight).split([self.settings["experts"], len(self.hidden_bias)], -1)
        first = self.settings["version"] == 1
        hidden = (F.gelu if first else F.relu)(hidden + self.hidden_bias)
        out = F.linear(hidden, self.out_weight) + self.out_bias
        sharpness = F.softplus(out) + 1e-3 if first else F.softplus(-out) + 0.01
        scaled = logits / self.settings["temperature"] / sharpness
        ordered = scaled.sort(-1, descending=True).values
        count = torch.arange(1, ordered.shape[-1] + 1, device=ordered.device, dtype=ordered.dtype)
        excess = ordered.cumsum(-1) - 1
        support = (count * ordered > excess).sum(-1, keepdim=True)
        return (scaled - excess.gather(-1, support - 1) / support).clamp_min(0)

    def _select(self, scores: Tensor) -> Tensor:
        """A softmax over all experts, over the k largest, or over the fewest that hold a mass."""
        joined = self.settings["joined"]
        if joined:
            logits, others = scores[..., :-joined], scores[..., -joined:]
            return torch.cat([logits.masked_fill(self._gates(logits) == 0, -torch.inf), others], -1).softmax(-1)
        return self._gates(scores)

    def _gates(self, logits: Tensor) -> Tensor:
        top_k, top_p, weights = (self.settings[key] for key in ("top_k", "top_p", "weights"))
        if top_p is not None:
            ordered, indices = logits.softmax(-1).sort(-1, descending=True)
            kept = ordered.where(ordered.cumsum(-1) - ordered < top_p, 0.0)
            return torch.zeros_like(logits).scatter(-1, indices, kept)
        if top_k is None or (top_k >= logits.shape[-1] and weights != "constant"):
            return logits.softmax(-1)
        values, indices = logits.topk(top_k, dim=-1)
        if weights == "constant":
            kept = torch.full_like(values, 1 / top_k)
        elif weights == "renormalised" and top_k > 1:
            kept = values.softmax(-1)
        else:
            kept = logits.softmax(-1).gather(-1, indices)
        return torch.zeros_like(logits).scatter(-1, indices, kept)
