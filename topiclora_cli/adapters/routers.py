"""Routers turn a hidden state into scores per expert, and those into logits and gates.

Whatever its kind, a router sees its own token only, or a mean over the prompt up to that token (prompt.py): anything
pooled over the sequence would let a prediction see the future. `logits` are such that their softmax is the router's
dense probability, which the losses use; `gates` are the weights that mix the experts.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topiclora_cli.adapters.selection import select_experts, sparsegen, threshold_experts
from topiclora_cli.adapters.weights import CheckedModule

INIT_STD = 0.02
Pool = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class RouterSettings:
    """What every router needs to know: sizes, choice of experts, and where in the model it stands.

    depth runs from 0 (first layer) to 1 (last); per_prompt averages the scores over the prompt.
    """

    in_features: int
    num_experts: int
    top_k: int | None = None
    top_p: float | None = None
    temperature: float = 1.0
    per_prompt: bool = False
    width: int = 256
    depth: float = 0.0


class Router(CheckedModule):
    """Base of all routers: x (..., d_in) -> logits and gates, both (..., E) in float32 (float64 if x is)."""

    reads_rank_space = False  # whether x is A x rather than the layer's input

    def __init__(self, settings: RouterSettings) -> None:
        super().__init__()
        self.settings = settings

    def settle(self, layer_name: str, device: torch.device) -> "Router":
        """Move to a layer's device, unless still without values, and be named after it in errors.

        The precision stays float32 whatever the base's is: routing is a choice, and rounding changes choices.
        """
        self.label = f"{layer_name}: router"
        empty = device.type == "meta" or any(tensor.is_meta for tensor in self.state_dict().values())
        return self if empty else self.to(device)

    def projection(self) -> Tensor | None:
        """Weight (n, d_in) of all that the router needs of x, so that a fused kernel can apply it; None without one."""
        return None

    def read(self, projected: Tensor) -> Tensor:
        """Raw scores from x's projection (..., n), or from x itself for a router without one."""
        raise NotImplementedError

    def tempered(self, logits: Tensor) -> Tensor:
        """Logits divided by the temperature."""
        return logits if self.settings.temperature == 1 else logits / self.settings.temperature

    def decide(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and gates from the scores."""
        return scores, select_experts(scores, top_k=self.settings.top_k, top_p=self.settings.top_p)

    def forward(self, x: Tensor, pool: Pool) -> tuple[Tensor, Tensor]:
        weight = self.projection()
        return self.route(x if weight is None else _linear(x, weight), pool)

    def route(self, projected: Tensor, pool: Pool) -> tuple[Tensor, Tensor]:
        """`forward` from x's projection, where somebody else has multiplied."""
        scores = precise(self.read(projected))
        return self.decide(pool(scores) if self.settings.per_prompt else scores)


class LinearRouter(Router):
    """Logits W x / tau (MoLoRA, MixLoRA, MoLA, HydraLoRA and most others)."""

    def __init__(self, settings: RouterSettings) -> None:
        super().__init__(settings)
        self.weight = _normal(settings.num_experts, settings.in_features)

    def projection(self) -> Tensor:
        return self.weight

    def read(self, projected: Tensor) -> Tensor:
        return self.tempered(projected)


class TopicRouter(Router):
    """Logits (W x) . k_e / (tau sqrt(d_k)) + b_e against topic-anchored keys k_e.

    The keys are stage 1's expert vectors rotated into their own span (keys.py), so d_k = E and no inner product
    changes. Frozen keys are a buffer; trained keys remember their anchor for the anchor loss. Reconstruction of
    TopicLoRA (AAAI 2026), of which only the abstract is public.
    """

    keys: Tensor
    anchor: Tensor

    def __init__(self, settings: RouterSettings, keys: Tensor, *, train_keys: bool = False) -> None:
        super().__init__(settings)
        num_experts, width = keys.shape
        self.scale = 1.0 / (settings.temperature * width**0.5)
        self.weight = _normal(width, settings.in_features)
        self.bias = nn.Parameter(torch.zeros(num_experts))
        if train_keys:
            self.keys = nn.Parameter(keys.clone())
            self.register_buffer("anchor", keys.clone())
        else:
            self.register_buffer("keys", keys.clone())

    @property
    def first_keys(self) -> Tensor:
        """The keys that it started from."""
        return self.anchor if isinstance(self.keys, nn.Parameter) else self.keys

    def projection(self) -> Tensor:
        # Keys meet the weight, not the tokens: (E, d_k) @ (d_k, d_in) is small and saves a tensor per token.
        return (self.keys @ self.weight) * self.scale

    def read(self, projected: Tensor) -> Tensor:
        return projected + self.bias


class CosineRouter(Router):
    """Logits cos(A x, k_e) / tau, in the rank space of the layer's A (SAMoRA, arXiv 2604.19048)."""

    reads_rank_space = True

    def __init__(self, settings: RouterSettings) -> None:
        super().__init__(settings)
        self.keys = nn.Parameter(torch.randn(settings.num_experts, settings.in_features))

    def read(self, projected: Tensor) -> Tensor:
        direction = F.normalize(precise(projected), dim=-1)
        keys = F.normalize(self.keys.to(direction.dtype), dim=-1)
        return self.tempered(precise(F.linear(direction, keys)))


class ThresholdRouter(Router):
    """Softmax over W x, cut at a learned threshold sigma(w x + b) / E (AdaMoLE, arXiv 2405.00361)."""

    def __init__(self, settings: RouterSettings) -> None:
        super().__init__(settings)
        self.weight = _normal(settings.num_experts, settings.in_features)
        self.threshold_weight = _normal(1, settings.in_features)
        self.threshold_bias = nn.Parameter(torch.zeros(1))

    def projection(self) -> Tensor:
        return torch.cat([self.weight, self.threshold_weight])

    def read(self, projected: Tensor) -> Tensor:
        return torch.cat([self.tempered(projected[..., :-1]), projected[..., -1:] + self.threshold_bias], -1)

    def decide(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        logits, threshold = scores[..., :-1], scores[..., -1:]
        return logits, threshold_experts(logits, threshold.sigmoid() / self.settings.num_experts)


class SparsegenRouter(Router):
    """Projection of W x onto the simplex, as sparse as a small network of x decides (LD-MoLE, arXiv 2509.25684).

    The paper shares one such network among all layers; here each router has its own, of `width` hidden units, since
    an adapter's state lives in its layers.
    """

    def __init__(self, settings: RouterSettings) -> None:
        super().__init__(settings)
        self.weight = _normal(settings.num_experts, settings.in_features)
        self.hidden_weight = _normal(settings.width, settings.in_features)
        self.hidden_bias = nn.Parameter(torch.zeros(settings.width))
        self.out_weight = nn.Parameter(torch.zeros(1, settings.width))
        self.out_bias = nn.Parameter(torch.full((1,), 0.5413))  # softplus gives 1: lambda starts at 0, a sparsemax

    def projection(self) -> Tensor:
        return torch.cat([self.weight, self.hidden_weight])

    def read(self, projected: Tensor) -> Tensor:
        logits, hidden = projected.split([self.settings.num_experts, self.settings.width], -1)
        sharpness = _linear(F.gelu(hidden + self.hidden_bias), self.out_weight) + self.out_bias
        return torch.cat([self.tempered(logits), sharpness], -1)

    def decide(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        logits, sharpness = scores[..., :-1], scores[..., -1:]
        return logits, sparsegen(logits, F.softplus(sharpness) + 1e-3)


class HierarchicalRouter(Router):
    """(1 - a) softmax(W x) + a softmax(mean of V x over the prompt), a rising with depth (HMoRA, ICLR 2025).

    a = sigma(alpha), alpha learned, from -2 in the first layer to 2 in the last. HMoRA encodes the task with a network
    of its own; here the prompt's mean score stands for it.
    """

    def __init__(self, settings: RouterSettings) -> None:
        super().__init__(settings)
        self.token_weight = _normal(settings.num_experts, settings.in_features)
        self.task_weight = _normal(settings.num_experts, settings.in_features)
        self.alpha = nn.Parameter(torch.tensor(4.0 * settings.depth - 2.0))

    def projection(self) -> Tensor:
        return torch.cat([self.token_weight, self.task_weight])

    def route(self, projected: Tensor, pool: Pool) -> tuple[Tensor, Tensor]:
        token, task = projected.chunk(2, -1)
        task = pool(task)
        share = self.alpha.sigmoid()
        return self.decide(((1 - share) * token.softmax(-1) + share * task.softmax(-1)).log())


class GraphRouter(Router):
    """Two graph convolutions over the experts and the token, which is joined to all of them (GMoE, arXiv 2412.16216).

    Experts are joined at random with density 0.1. The second convolution has no non-linearity after it, so its weight
    and the projection to one logit are a single vector.
    """

    adjacency: Tensor

    def __init__(self, settings: RouterSettings) -> None:
        super().__init__(settings)
        self.token_weight = _normal(settings.width, settings.in_features)
        self.experts = nn.Parameter(torch.randn(settings.num_experts, settings.width))
        self.out_weight = nn.Parameter(torch.randn(settings.width) / settings.width**0.5)
        self.register_buffer("adjacency", random_expert_graph(settings.num_experts, density=0.1))

    def projection(self) -> Tensor:
        return self.token_weight

    def read(self, projected: Tensor) -> Tensor:
        dtype = projected.dtype
        adjacency = self.adjacency.to(dtype)
        mixed = adjacency[:, :-1] @ self.experts.to(dtype)  # what each node, the token last, hears from the experts
        nodes = F.relu(mixed + projected.unsqueeze(-2) * adjacency[:, -1:])  # (..., E + 1, width)
        return self.tempered((nodes @ self.out_weight.to(dtype)) @ adjacency[:-1].T)


class UniformRouter(Router):
    """Every expert with weight 1/E: the control without routing. With one expert, a plain LoRA."""

    def read(self, projected: Tensor) -> Tensor:
        return projected.new_zeros(*projected.shape[:-1], self.settings.num_experts)


class StaticRouter(Router):
    """Learned logits that do not look at the input: the control with routing but no choice."""

    def __init__(self, settings: RouterSettings) -> None:
        super().__init__(settings)
        self.logits = nn.Parameter(torch.zeros(settings.num_experts))

    def read(self, projected: Tensor) -> Tensor:
        return self.tempered(precise(self.logits)).expand(*projected.shape[:-1], -1)


ROUTERS: dict[str, type[Router]] = {
    "topic": TopicRouter,
    "linear": LinearRouter,
    "cosine": CosineRouter,
    "threshold": ThresholdRouter,
    "sparsegen": SparsegenRouter,
    "hierarchical": HierarchicalRouter,
    "graph": GraphRouter,
    "uniform": UniformRouter,
    "static": StaticRouter,
}


def known_keys(routers: nn.ModuleDict, adapter_name: str) -> Tensor | None:
    """The keys that an adapter's topic router started from, None where it has none."""
    router = dict(routers.items()).get(adapter_name)
    return router.first_keys if isinstance(router, TopicRouter) else None


def no_pooling(scores: Tensor) -> Tensor:
    """Every token by itself."""
    return scores


def precise(x: Tensor) -> Tensor:
    """x in float32, or left in float64."""
    return x if x.dtype == torch.float64 else x.float()


def random_expert_graph(num_experts: int, *, density: float) -> Tensor:
    """Normalised adjacency (E + 1, E + 1), the last node a token joined to all; the same graph for every E."""
    generator = torch.Generator().manual_seed(0)
    edges = torch.rand(num_experts, num_experts, generator=generator).triu(1)
    adjacency = torch.ones(num_experts + 1, num_experts + 1)
    adjacency[:-1, :-1] = ((edges > 0) & (edges < density)).float()
    adjacency = ((adjacency + adjacency.T + torch.eye(num_experts + 1)) > 0).float()
    scale = adjacency.sum(-1).rsqrt()
    return scale[:, None] * adjacency * scale


def _normal(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(*shape).normal_(std=INIT_STD))


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    return precise(F.linear(x, weight.to(x.dtype)))
