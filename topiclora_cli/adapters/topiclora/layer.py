"""A linear layer with E LoRA experts beside it, and the router that it owns or shares."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from topiclora_cli.adapters.dispatch import prefers_sparse, sparse_delta
from topiclora_cli.adapters.dropout import own_rank_space
from topiclora_cli.adapters.fused import can_fuse, fused_mixture, fused_sorted_mixture, is_untouched
from topiclora_cli.adapters.mixture import collapse, fan_in, fan_out, gated_sum, rank_space
from topiclora_cli.adapters.precision import computes_precisely, precise_product
from topiclora_cli.adapters.prompt_mean import PromptMean
from topiclora_cli.adapters.record import note_gates, note_logits
from topiclora_cli.adapters.routers import Decision, Router, no_pooling
from topiclora_cli.adapters.topiclora.config import TopicLoraConfig
from topiclora_cli.adapters.topiclora.routing import Routing, RoutingGroup
from topiclora_cli.adapters.topiclora.scope import in_feed_forward, is_output
from topiclora_cli.adapters.tuner import RoutedTunerLayer
from topiclora_cli.adapters.weights import Factor, check_loaded, read
from topiclora_cli.errors import TopicLoraError

Factors = tuple[Tensor, Tensor]  # A (E or 1, r, d_in) and B (E, r, d_out)
NO_MERGE = (
    "A routed mixture has no exact dense weight and cannot be merged.",
    "Export it with fixed gates (topiclora merge), or serve the adapter itself.",
)


class TopicLoraLayer(RoutedTunerLayer):
    """State of the adapters on one base layer.

    Per adapter name: topiclora_A, whose weight is (E, r, d_in), or (1, r, d_in) when shared; topiclora_B, whose weight
    is (E, r, d_out), zero at first; topiclora_router, where this layer is the first of its group; topiclora_config,
    this layer's own.
    """

    adapter_layer_names = ("topiclora_A", "topiclora_B", "topiclora_router")
    other_param_names = ("topiclora_config", "topiclora_dropout", "topiclora_group", "topiclora_prompt")
    no_merge = NO_MERGE
    router_container = "topiclora_router"

    def __init__(self, base_layer: nn.Module, name: str) -> None:
        self.base_layer = base_layer
        self.name = name
        self.in_features, self.out_features = _features(self.get_base_layer(), name)
        self.topiclora_A = nn.ModuleDict()
        self.topiclora_B = nn.ModuleDict()
        self.topiclora_router = nn.ModuleDict()
        self.topiclora_config: dict[str, TopicLoraConfig] = {}
        self.topiclora_dropout = nn.ModuleDict()
        self.topiclora_group: dict[str, RoutingGroup] = {}
        self.topiclora_prompt: dict[str, PromptMean] = {}
        self.frozen_peft_weight_names: dict[str, tuple[str, ...]] = {}
        self._disable_adapters = False
        self.merged_adapters = []

    def update_layer(self, adapter_name: str, config: TopicLoraConfig) -> None:
        """Add an adapter, or replace the one of that name; its router follows with `join`."""
        experts_of_a = 1 if config.shared_a else config.num_experts
        lora_a = torch.empty(experts_of_a, config.r, self.in_features)
        for expert in lora_a:
            nn.init.kaiming_uniform_(expert, a=math.sqrt(5))
        lora_b = torch.zeros(config.num_experts, config.r, self.out_features)
        self.topiclora_A[adapter_name] = Factor(f"{self.name}: topiclora_A.{adapter_name}", lora_a)
        self.topiclora_B[adapter_name] = Factor(f"{self.name}: topiclora_B.{adapter_name}", lora_b)
        if adapter_name in self.topiclora_router:
            del self.topiclora_router[adapter_name]
        self.topiclora_config[adapter_name] = config
        self.topiclora_dropout[adapter_name] = (
            nn.Dropout(config.lora_dropout) if config.lora_dropout > 0 else nn.Identity()
        )
        self.frozen_peft_weight_names[adapter_name] = () if config.train_experts else ("topiclora_A", "topiclora_B")
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def join(
        self, adapter_name: str, group: RoutingGroup, router: Router | None, prompt: PromptMean | None = None
    ) -> None:
        """Become a member of a routing group, as the owner of its router if one is given."""
        self.topiclora_group[adapter_name] = group
        if router is None:
            return
        self.topiclora_router[adapter_name] = router.settle(
            self.name, next(self.topiclora_A[adapter_name].parameters()).device
        )
        if prompt is not None:
            self.topiclora_prompt[adapter_name] = prompt
        trains = adapter_name in self.active_adapters and not self.topiclora_config[adapter_name].inference_mode
        router.requires_grad_(trains)

    def factors(self, adapter_name: str) -> Factors:
        """A (E or 1, r, d_in) and B (E, r, d_out), ready to multiply with."""
        return read(self.topiclora_A[adapter_name]), read(self.topiclora_B[adapter_name])

    def route(self, adapter_name: str, x: Tensor, projected: Tensor | None = None) -> Routing:
        """The decision for inputs x (..., d_in): made here, or taken from the group's first member.

        projected: x times the router's projection, where that is known already.
        """
        group = self.topiclora_group[adapter_name]
        if adapter_name not in self.topiclora_router:
            return group.take(self.name).fit(x.shape[:-1], self.name)
        config = self.topiclora_config[adapter_name]
        router: Router = self.topiclora_router[adapter_name]  # type: ignore[assignment]
        pool = self.topiclora_prompt.get(adapter_name, no_pooling)
        if projected is None:
            source = router.drop(x)
            if router.reads_rank_space:
                source = precise_product(source, read(self.topiclora_A[adapter_name]).flatten(0, 1))
            decision: Decision = router(source, pool)
        else:
            decision = router.route(projected, pool)
        if config.num_experts > 1:
            parts = {"token": decision.token, "task": decision.task, "excess": decision.excess}
            note_logits(self, decision.logits, **parts)
        routing = Routing(decision.gates, config.top_k or config.num_experts, config.scaling)
        group.put(routing)
        return routing

    def as_lora(self, adapter_name: str, gates: Tensor) -> tuple[Tensor, Tensor]:
        """A (R, d_in) and B (d_out, R) of the plain LoRA that equals this adapter under fixed gates (E,).

        R is E*r, or r where the experts share A. Raises TopicLoraError where experts are mixed after a non-linearity:
        no LoRA equals that.
        """
        config = self.topiclora_config[adapter_name]
        if self.mixing_role(adapter_name):
            raise TopicLoraError(
                "Experts mixed after a non-linearity (mixing: ffn) equal no LoRA, even with fixed gates.",
                "Serve the adapter itself, or train with mixing: linear.",
            )
        return collapse(gates * config.scaling, *(factor.detach() for factor in self.factors(adapter_name)))

    def idle_parameters(self, adapter_name: str) -> int:
        """Trainable parameters of the experts that one token leaves out; 0 where their number varies."""
        config = self.topiclora_config.get(adapter_name)
        if config is None or config.top_k is None:
            return 0
        experts = [self.topiclora_B[adapter_name]] + ([] if config.shared_a else [self.topiclora_A[adapter_name]])
        trainable = sum(p.numel() for factor in experts for p in factor.parameters() if p.requires_grad)
        return round((1 - config.top_k / config.num_experts) * trainable)

    def describe(self, adapter_name: str) -> tuple[int, int, str]:
        """Number of experts, rank of one, and the router's kind."""
        config = self.topiclora_config[adapter_name]
        return config.num_experts, config.r, config.router if config.num_experts > 1 else "-"

    def mixing_role(self, adapter_name: str) -> str | None:
        """With mixing: ffn, whether this layer fans its block's tokens 'out' to k rows or 'in' again; else None."""
        if self.topiclora_config[adapter_name].mixing != "ffn" or not in_feed_forward(self.name):
            return None
        return "in" if is_output(self.name) else "out"


class TopicLoraLinear(nn.Module, TopicLoraLayer):
    """The layer that takes a linear layer's place in the model."""

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: TopicLoraConfig, *, name: str) -> None:
        nn.Module.__init__(self)
        TopicLoraLayer.__init__(self, base_layer, name)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        active = [] if self.disable_adapters else [name for name in self.active_adapters if name in self.topiclora_B]
        if len(active) == 1 and not args and not kwargs:
            return self._single(x, active[0])
        result = self.base_layer(x, *args, **kwargs)
        for name in active:
            if self.mixing_role(name):
                raise TopicLoraError("mixing: ffn works with one active adapter.", "Activate one with set_adapter.")
            factors = self.factors(name)
            hidden = self.adapter_input(x, factors[0])
            routing = self._routing(name, hidden)
            result = result + self._delta(name, hidden, routing, factors).to(result.dtype)
        return result

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        check_loaded(self.name, self, prefix, state_dict)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _single(self, x: Tensor, name: str) -> Tensor:
        """The usual case, one active adapter: by the kernel that fits."""
        config, role, factors = self.topiclora_config[name], self.mixing_role(name), self.factors(name)
        lora_a, lora_b = factors
        sparse = config.kernel == "sparse" and not torch.compiler.is_compiling()
        sparse = sparse or (config.kernel == "auto" and prefers_sparse(x, lora_b, config.top_k))
        fuses = role is None and not sparse and config.kernel != "plain" and not self._drops(name)
        if fuses and can_fuse(x, lora_a, self.base_layer):
            return self._fused(name, x, factors)
        hidden = self.adapter_input(x, lora_a)
        if role == "in":
            return self._fan_in(name, x, hidden, factors)
        routing = self._routing(name, hidden)
        if role == "out":
            return self._fan_out(name, x, hidden, routing, factors)
        if sparse:
            return self._sparse(name, x, hidden, routing, factors)
        result = self.base_layer(x)
        return result + self._delta(name, hidden, routing, factors).to(result.dtype)  # type: ignore[no-any-return]

    def _fused(self, name: str, x: Tensor, factors: Factors) -> Tensor:
        rides = name in self.topiclora_router and _rides(self.topiclora_router[name], x)
        return fused_mixture(
            x,
            lambda projected: self._routing(name, x, projected).scaled,
            *factors,
            self.base_layer,  # type: ignore[arg-type]
            self.topiclora_router[name].projection() if rides else None,  # type: ignore[operator]
        )

    def _drops(self, name: str) -> bool:
        return self.training and self.topiclora_config[name].lora_dropout > 0

    def _routing(self, name: str, hidden: Tensor, projected: Tensor | None = None) -> Routing:
        routing = self.route(name, hidden, projected)
        note_gates(self, routing.gates, hidden)
        return routing

    def _own_dropout(self, name: str) -> float:
        """The dropout for which each expert draws a mask of its own, 0 where one mask serves all."""
        config = self.topiclora_config[name]
        return config.lora_dropout if self.training and config.expert_dropout == "own" else 0.0

    def _rank_space(self, name: str, x: Tensor, factors: Factors) -> Tensor:
        """A_e x of every expert after dropout, (..., E or 1, r)."""
        lora_a, lora_b = factors
        if p := self._own_dropout(name):
            return own_rank_space(x, lora_a, len(lora_b), p)
        return rank_space(self.topiclora_dropout[name](x), lora_a)

    def _delta(self, name: str, hidden: Tensor, routing: Routing, factors: Factors) -> Tensor:
        return gated_sum(self._rank_space(name, hidden, factors), routing.scaled, factors[1])

    def _sparse(self, name: str, x: Tensor, hidden: Tensor, routing: Routing, factors: Factors) -> Tensor:
        lora_a, lora_b = factors
        self.require_sortable(hidden, lora_b)
        plan = routing.plan
        if not self._drops(name) and can_fuse(x, lora_a, self.base_layer):
            return fused_sorted_mixture(x, plan, lora_a, lora_b, self.base_layer)  # type: ignore[arg-type]
        result = self.base_layer(x)
        own = self._own_dropout(name)
        rows = (hidden if own else self.topiclora_dropout[name](hidden)).flatten(0, -2)
        delta = sparse_delta(rows, plan, lora_a, lora_b, dropout=own)
        return result + delta.view(result.shape).to(result.dtype)  # type: ignore[no-any-return]

    def _fan_out(self, name: str, x: Tensor, hidden: Tensor, routing: Routing, factors: Factors) -> Tensor:
        """One row per token and chosen expert, (..., S*k, d_out): the block's interior is elementwise."""
        delta = fan_out(self._rank_space(name, hidden, factors), routing.chosen[1], factors[1])
        result = self.base_layer(x).unsqueeze(-2)
        return (result + (delta * routing.scaling).to(result.dtype)).flatten(-3, -2)  # type: ignore[no-any-return]

    def _fan_in(self, name: str, x: Tensor, hidden: Tensor, factors: Factors) -> Tensor:
        """Rows (..., S*k, d_in) of all chosen experts back to one per token."""
        routing = self.topiclora_group[name].take(self.name)
        weights, experts = routing.chosen
        note_gates(self, routing.gates, x)
        slots = x.unflatten(-2, (-1, routing.k))  # (..., S, k, d_in)
        # The base's part is an average: with one expert whose gate is below one, the block must not shrink.
        share = (weights / weights.sum(-1, keepdim=True)).to(x.dtype)
        result = self.base_layer((slots * share.unsqueeze(-1)).sum(-2))
        dropped = self.topiclora_dropout[name](hidden).unflatten(-2, (-1, routing.k))
        delta = fan_in(dropped, experts, weights * routing.scaling, *factors)
        return result + delta.to(result.dtype)  # type: ignore[no-any-return]


def _rides(router: nn.Module, x: Tensor) -> bool:
    """Whether the router's product with x can be part of the experts': in 16 bits it stands apart, in float32."""
    # What FSDP wraps around a router is none, and holds its weights only while it is called.
    return isinstance(router, Router) and computes_precisely(x) and not router.drops and is_untouched(router)


def _features(base: Any, name: str) -> tuple[int, int]:
    if hasattr(base, "in_features") and hasattr(base, "out_features"):
        return base.in_features, base.out_features
    if hasattr(base, "nx") and hasattr(base, "nf"):  # transformers' Conv1D (GPT-2)
        return base.nx, base.nf
    raise TopicLoraError(f"{name} is a {type(base).__name__}, not a linear layer.", "Change adapter.target_modules.")
