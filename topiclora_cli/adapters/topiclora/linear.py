"""The forward pass of a linear layer with E LoRA experts beside it, by the kernel that fits."""

from typing import Any

import torch
from torch import Tensor, nn

from topiclora_cli.adapters.dispatch import prefers_sparse, sparse_delta
from topiclora_cli.adapters.dropout import own_rank_space
from topiclora_cli.adapters.fused import can_fuse, fused_mixture, fused_sorted_mixture, is_untouched
from topiclora_cli.adapters.mixture import fan_in, fan_out, gated_sum, rank_space
from topiclora_cli.adapters.precision import computes_precisely
from topiclora_cli.adapters.record import note_gates
from topiclora_cli.adapters.routers import Router
from topiclora_cli.adapters.topiclora.config import TopicLoraConfig
from topiclora_cli.adapters.topiclora.layer import Factors, TopicLoraLayer
from topiclora_cli.adapters.topiclora.routing import Routing
from topiclora_cli.adapters.weights import check_loaded
from topiclora_cli.errors import TopicLoraError


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
            return self._from_start(x, self._single(x, active[0]), active)
        result = self.base_layer(x, *args, **kwargs)
        for name in active:
            if self.mixing_role(name):
                raise TopicLoraError("mixing: ffn works with one active adapter.", "Activate one with set_adapter.")
            factors = self.factors(name)
            hidden = self.adapter_input(x, factors[0])
            routing = self._routing(name, hidden)
            result = result + self._delta(name, hidden, routing, factors).to(result.dtype)
        return self._from_start(x, result, active)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        check_loaded(self.name, self, prefix, state_dict)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _single(self, x: Tensor, name: str) -> Tensor:
        """The usual case, one active adapter: by the kernel that fits."""
        config, role, factors = self.topiclora_config[name], self.mixing_role(name), self.factors(name)
        lora_a, lora_b = factors
        sparse = config.kernel == "sparse" and not torch.compiler.is_compiling()
        own_masks = self._own_dropout(name) > 0
        sparse = sparse or (config.kernel == "auto" and prefers_sparse(x, lora_b, config.top_k, own_masks=own_masks))
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

    def _from_start(self, x: Tensor, result: Tensor, active: list[str]) -> Tensor:
        """The layer's output less what experts that started from the base's spectrum began with."""
        for start in (self.topiclora_start[name] for name in active if name in self.topiclora_start):
            began: Tensor = start(self.adapter_input(x, start.start_a))  # type: ignore[arg-type]
            result = result - began.to(result.dtype)
        return result

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
