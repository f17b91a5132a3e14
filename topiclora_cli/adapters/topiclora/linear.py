"""The forward pass of a linear layer with E LoRA experts beside it, by the kernel that fits."""

from typing import Any

import torch
from torch import Tensor, nn

from topiclora_cli.adapters.context import RoutingContext
from topiclora_cli.adapters.dispatch import FEW_ROWS, prefers_sparse, sparse_delta
from topiclora_cli.adapters.dropout import own_rank_space
from topiclora_cli.adapters.fused import can_fuse, fused_mixture, fused_sorted_mixture, is_untouched
from topiclora_cli.adapters.light import light_mixture, prefers_light
from topiclora_cli.adapters.mixture import apart, fan_in, fan_out, gated_sum, rank_space
from topiclora_cli.adapters.precision import computes_precisely, no_autocast, precise_product
from topiclora_cli.adapters.record import note_gates
from topiclora_cli.adapters.routers import Router
from topiclora_cli.adapters.topiclora.config import TopicLoraConfig
from topiclora_cli.adapters.topiclora.layer import Factors, TopicLoraLayer
from topiclora_cli.adapters.topiclora.routing import Routing
from topiclora_cli.adapters.unchanging import Held, computing_in
from topiclora_cli.adapters.weights import check_loaded
from topiclora_cli.errors import TopicLoraError


class TopicLoraLinear(nn.Module, TopicLoraLayer):
    """The layer that takes a linear layer's place in the model."""

    def __init__(
        self,
        base_layer: nn.Module,
        adapter_name: str,
        config: TopicLoraConfig,
        *,
        name: str,
        context: RoutingContext,
    ) -> None:
        nn.Module.__init__(self)
        TopicLoraLayer.__init__(self, base_layer, name, context)
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
        if (known := self._unchanged(x, name)) is not None:
            return known
        config, role, factors = self.topiclora_config[name], self.mixing_role(name), self.factors(name)
        lora_a, lora_b = factors
        routed = lora_b[: config.num_experts] if config.shared_experts else lora_b
        sparse = config.kernel == "sparse" and not torch.compiler.is_compiling()
        own_masks = self._own_dropout(name) > 0
        sparse = sparse or (config.kernel == "auto" and prefers_sparse(x, routed, config.top_k, own_masks=own_masks))
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

    def _unchanged(self, x: Tensor, name: str) -> Tensor | None:
        """The output by what `_fused` held of the weights in a block in which they do not change, if it did."""
        held = self.routing_context.here.held
        if not held or torch.is_grad_enabled() or self.training or torch.compiler.is_compiling():
            return None
        found: Held | None = held.get((self, name))
        if found is None or found.lora_a.dtype != computing_in(x) or not is_untouched(self.base_layer):
            return None
        with no_autocast(x):
            projected = None
            if found.projection is not None and self.topiclora_router[name] is found.router:
                # As rows, as the kernel has them: digits of what lies otherwise in memory could differ.
                rows = x.reshape(-1, x.shape[-1])
                projected = precise_product(rows, found.projection).view(*x.shape[:-1], -1)
            routing = self._routing(name, x, projected)
            spread = routing.spread(len(found.lora_b) // routing.gates.shape[-1], found.lora_b.dtype)
            return light_mixture(x, spread, found.lora_a, found.lora_b, self.base_layer)  # type: ignore[arg-type]

    def _hold(self, x: Tensor, name: str, factors: Factors) -> None:
        """Leave what the next calls multiply with where weights do not change."""
        held, config = self.routing_context.here.held, self.topiclora_config[name]
        if held is None or torch.is_grad_enabled() or self.training:
            return
        if config.kernel == "auto" and prefers_sparse(x.new_empty(FEW_ROWS, x.shape[-1]), factors[1], config.top_k):
            return  # the kernel goes by the number of rows
        lora_a, lora_b = (factor.flatten(0, 1).to(computing_in(x)) for factor in factors)
        router = dict(self.topiclora_router.items()).get(name)
        with no_autocast(x):
            projection = router.projection() if isinstance(router, Router) and is_untouched(router) else None
        held[self, name] = Held(lora_a, lora_b, router, projection)

    def _fused(self, name: str, x: Tensor, factors: Factors) -> Tensor:
        self._hold(x, name, factors)
        base: nn.Linear = self.base_layer  # type: ignore[assignment]
        if self.topiclora_config[name].kernel == "auto" and prefers_light(x, base):
            spread = self._routing(name, x).spread(factors[1].shape[1], computing_in(x))
            flat_a, flat_b = factors[0].flatten(0, 1), factors[1].flatten(0, 1)
            return light_mixture(x, spread, flat_a, flat_b, base)
        rides = name in self.topiclora_router and _rides(self.topiclora_router[name], x)
        return fused_mixture(
            x,
            lambda projected: self._routing(name, x, projected).scaled,
            *factors,
            base,
            self.topiclora_router[name].projection() if rides else None,  # type: ignore[operator]
        )

    def _drops(self, name: str) -> bool:
        return self.training and self.topiclora_config[name].lora_dropout > 0

    def _routing(self, name: str, hidden: Tensor, projected: Tensor | None = None) -> Routing:
        routing = self.route(name, hidden, projected)
        note_gates(self, routing.gates, hidden, shared=routing.shared)
        return routing

    def _own_dropout(self, name: str) -> float:
        """The dropout for which each expert draws a mask of its own, 0 where one mask serves all."""
        config = self.topiclora_config[name]
        return config.lora_dropout if self.training and config.expert_dropout == "own" else 0.0

    def _dropped(self, name: str, hidden: Tensor) -> Tensor:
        """What the experts read, but for masks of their own."""
        return hidden if self._own_dropout(name) else self.topiclora_dropout[name](hidden)  # type: ignore[no-any-return]

    def _rank_space(self, name: str, dropped: Tensor, factors: Factors) -> Tensor:
        """A_e x of every expert, (..., E or 1, r)."""
        lora_a, lora_b = factors
        p = self._own_dropout(name)
        return own_rank_space(dropped, lora_a, len(lora_b), p) if p else rank_space(dropped, lora_a)

    def _delta(self, name: str, hidden: Tensor, routing: Routing, factors: Factors) -> Tensor:
        return gated_sum(self._rank_space(name, self._dropped(name, hidden), factors), routing.scaled, factors[1])

    def _sparse(self, name: str, x: Tensor, hidden: Tensor, routing: Routing, factors: Factors) -> Tensor:
        (lora_a, lora_b), always = apart(factors, routing.routed)
        self.require_sortable(hidden, lora_b)
        plan = routing.plan
        if not routing.shared and not self._drops(name) and can_fuse(x, lora_a, self.base_layer):
            return fused_sorted_mixture(x, plan, lora_a, lora_b, self.base_layer)  # type: ignore[arg-type]
        # What every token passes through is not sorted: its rows would all be there, once more for each expert.
        dropped = self._dropped(name, hidden)
        result = self._with_shared(name, x, dropped, routing, always)
        delta = sparse_delta(dropped.flatten(0, -2), plan, lora_a, lora_b, dropout=self._own_dropout(name))
        return result + delta.view(result.shape).to(result.dtype)  # type: ignore[no-any-return]

    def _with_shared(self, name: str, x: Tensor, dropped: Tensor, routing: Routing, factors: Factors) -> Tensor:
        """The base layer and the experts for every token, whose factors these are; they read `dropped`."""
        if not routing.shared:
            return self.base_layer(x)  # type: ignore[no-any-return]
        gates = routing.scaled_shared
        fuses = self.topiclora_config[name].kernel != "plain" and not self._drops(name)
        if fuses and can_fuse(x, factors[0], self.base_layer):
            return fused_mixture(x, lambda _: gates, *factors, self.base_layer)  # type: ignore[arg-type]
        result = self.base_layer(x)
        delta = gated_sum(self._rank_space(name, dropped, factors), gates, factors[1])
        return result + delta.to(result.dtype)  # type: ignore[no-any-return]

    def _fan_out(self, name: str, x: Tensor, hidden: Tensor, routing: Routing, factors: Factors) -> Tensor:
        """One row per token and chosen expert, (..., T*k, d_out): the block's interior is elementwise.

        Shared experts are part of every row, as the base layer is.
        """
        routed, always = apart(factors, routing.routed)
        dropped = self._dropped(name, hidden)
        delta = fan_out(self._rank_space(name, dropped, routed), routing.chosen[1], routed[1])
        result = self._with_shared(name, x, dropped, routing, always).unsqueeze(-2)
        return (result + (delta * routing.scaling).to(result.dtype)).flatten(-3, -2)  # type: ignore[no-any-return]

    def _fan_in(self, name: str, x: Tensor, hidden: Tensor, factors: Factors) -> Tensor:
        """Rows (..., T*k, d_in) of all chosen experts back to one per token."""
        routing = self.topiclora_group[name].take(self.name)
        weights, experts = routing.chosen
        note_gates(self, routing.gates, x, shared=routing.shared)
        slots = x.unflatten(-2, (-1, routing.k))  # (..., T, k, d_in)
        # The base's part is an average: with one expert whose gate is below one, the block must not shrink.
        share = (weights / weights.sum(-1, keepdim=True)).to(x.dtype)
        mean = (slots * share.unsqueeze(-1)).sum(-2)
        routed, always = apart(factors, routing.routed)
        read = self._dropped(name, self.adapter_input(mean, factors[0]))
        result = self._with_shared(name, mean, read, routing, always)
        dropped = self.topiclora_dropout[name](hidden).unflatten(-2, (-1, routing.k))
        delta = fan_in(dropped, experts, weights * routing.scaling, *routed)
        return result + delta.to(result.dtype)  # type: ignore[no-any-return]


def _rides(router: nn.Module, x: Tensor) -> bool:
    """Whether the router's product with x can be part of the experts': in 16 bits it stands apart, in float32."""
    # What FSDP wraps around a router is none, and holds its weights only while it is called.
    return isinstance(router, Router) and computes_precisely(x) and not router.drops and is_untouched(router)
