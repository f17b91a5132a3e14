"""A sparse-MoE block with adapters beside its experts.

    y = block(h) + sum_j w_j(h) * Up_j act(Down_j h)

The adapters read what the block reads and add to what it returns, so how a model stores or runs its experts does not
matter: nothing inside the block is touched. Where weights are the pretrained router's, a hook on the experts notes what
that router decided; summing G_i E_i and G_i adapter_i apart is the same as embedding the adapters in the experts.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topiclora_cli.adapters.context import RoutingContext
from topiclora_cli.adapters.dispatch import dispatch, prefers_sparse, sparse_delta
from topiclora_cli.adapters.dropout import dropped, own_rank_space
from topiclora_cli.adapters.mixture import apart, gated_sum, rank_space
from topiclora_cli.adapters.perft.base_routing import BaseRouting
from topiclora_cli.adapters.perft.config import PerftConfig
from topiclora_cli.adapters.record import note_gates, note_logits
from topiclora_cli.adapters.routers import Decision, Router, no_pooling
from topiclora_cli.adapters.selection import keep_top_k
from topiclora_cli.adapters.shared import always_on
from topiclora_cli.adapters.tuner import Described, RoutedTunerLayer
from topiclora_cli.adapters.weights import Factor, check_loaded, read
from topiclora_cli.errors import TopicLoraError

# Variances of Down and Up at the start in the authors' code: 2 / r, by the bottleneck and so large, and nearly zero.
UP_VARIANCE = 1e-12
NO_MERGE = (
    "PERFT adapters run beside a whole block of experts, which is no linear layer: no dense weight equals them.",
    "Serve the adapter itself, or write a folder that transformers loads (topiclora merge --to self-loading).",
)


class _Dropout(NamedTuple):
    """Where a forward pass drops: on x, one mask for all or one for each adapter, or in the bottleneck."""

    shared: float = 0.0
    own: float = 0.0
    hidden: float = 0.0


class PerftLayer(RoutedTunerLayer):
    """State of the adapters on one block.

    Per adapter name: perft_A, whose weight (M + S, r, d) holds the adapters' down projections, those of the S adapters
    for every token behind the M routed ones; perft_B, whose weight (M + S, r, d) holds their up projections,
    transposed; perft_router, of the routed variant; perft_config, this block's
    own.
    """

    adapter_layer_names = ("perft_A", "perft_B", "perft_router")
    other_param_names = ("perft_config",)
    no_merge = NO_MERGE
    router_container = "perft_router"
    second_factors = "perft_B"

    def __init__(self, base_layer: nn.Module, name: str, width: int, context: RoutingContext) -> None:
        self.base_layer = base_layer
        self.name = name
        self.routing_context = context
        self.in_features = self.out_features = width
        self.perft_A = nn.ModuleDict()
        self.perft_B = nn.ModuleDict()
        self.perft_router = nn.ModuleDict()
        self.perft_config: dict[str, PerftConfig] = {}
        self.base_routing: BaseRouting | None = None
        self.frozen_peft_weight_names: dict[str, tuple[str, ...]] = {}
        self._disable_adapters = False
        self.merged_adapters = []

    def update_layer(self, adapter_name: str, config: PerftConfig, router: Router | None) -> None:
        """Add an adapter, or replace the one of that name; config holds this block's own numbers."""
        base = next(self.get_base_layer().parameters())
        dtype = base.dtype if base.is_floating_point() else torch.float32
        for key, variance in (("perft_A", 2 / config.r), ("perft_B", UP_VARIANCE)):
            empty = torch.empty(config.all_adapters, config.r, self.in_features, dtype=dtype, device=base.device)
            factor = Factor(f"{self.name}: {key}.{adapter_name}", nn.init.normal_(empty, std=variance**0.5))
            getattr(self, key)[adapter_name] = factor
        if adapter_name in self.perft_router:
            del self.perft_router[adapter_name]
        if router is not None:
            self.perft_router[adapter_name] = router.settle(self.name, base.device)
            router.context = self.routing_context
        self.perft_config[adapter_name] = config
        self.frozen_peft_weight_names[adapter_name] = () if config.router_trains else ("perft_router",)
        self._watch_as_needed()
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def delete_adapter(self, adapter_name: str) -> None:
        """Delete an adapter, and stop watching the experts once no other needs it."""
        super().delete_adapter(adapter_name)
        self._watch_as_needed()

    def stop_watching(self) -> None:
        """Leave the base's experts as they were."""
        if self.base_routing is not None:
            self.base_routing.remove()
            self.base_routing = None

    def _watch_as_needed(self) -> None:
        if not any(config.follows_base for config in self.perft_config.values()):
            self.stop_watching()
        elif self.base_routing is None:
            self.base_routing = BaseRouting(self.get_base_layer().experts, self.name)  # type: ignore[arg-type]

    def factors(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """Down and Up, transposed, (M + S, r, d) each, ready to multiply with."""
        return read(self.perft_A[adapter_name]), read(self.perft_B[adapter_name])

    def routed_factors(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """Down and Up, transposed, (M, r, d) each, without the adapters that every token passes through."""
        return apart(self.factors(adapter_name), self.perft_config[adapter_name].num_adapters)[0]

    def expert_hidden(self, adapter_name: str, x: Tensor) -> Tensor:
        """What the routed adapters' up projections read of x, (..., M, r), without dropout."""
        down = self.routed_factors(adapter_name)[0]
        hidden = rank_space(self.adapter_input(x, down), down)
        return F.silu(hidden) if self.perft_config[adapter_name].adapter_type == "parallel" else hidden

    def choose(self, adapter_name: str, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and indices of each token's routed adapters, (..., k) each, for inputs x (..., d).

        Records the own router's logits. Raises TopicLoraError where the base's decision is needed and its experts did
        not run.
        """
        config = self.perft_config[adapter_name]
        base = self.base_routing.decision(x.shape[:-1]) if config.follows_base and self.base_routing else None
        if base is not None and not config.routes:
            return base
        decision: Decision = self.perft_router[adapter_name](x, no_pooling)
        note_logits(self, decision.logits, excess=decision.excess)
        k = decision.k or config.top_k
        weights, adapters = keep_top_k(decision.gates, k, renormalize=config.renormalize == "on")
        if base is not None:
            # The authors' code on OLMoE: slot by slot, the pretrained router's weights. DeepSeek's are unsorted.
            followed = base[0].topk(config.top_k, dim=-1).values.to(weights.dtype)
            weights = followed if k == config.top_k else followed.sum(-1, keepdim=True).expand_as(weights) / k
        return weights, adapters

    def idle_parameters(self, adapter_name: str) -> int:
        """Trainable parameters of the adapters that are not chosen for a token."""
        config = self.perft_config.get(adapter_name)
        if config is None or not (config.routes or config.follows_base):
            return 0
        experts = [*self.perft_A[adapter_name].parameters(), *self.perft_B[adapter_name].parameters()]
        trained = sum(weights.numel() for weights in experts if weights.requires_grad)
        return round((config.num_adapters - config.top_k) / config.all_adapters * trained)

    def describe(self, adapter_name: str) -> Described:
        """Number of adapters, their width, and the router's name."""
        config = self.perft_config[adapter_name]
        router = config.router if config.routes else "pretrained" if config.follows_base else "-"
        return Described(config.num_adapters, config.r, router, config.shared_adapters)


class PerftBlock(nn.Module, PerftLayer):
    """The module that takes a MoE block's place in the model."""

    def __init__(
        self,
        base_layer: nn.Module,
        adapter_name: str,
        config: PerftConfig,
        router: Router | None,
        *,
        name: str,
        width: int,
        context: RoutingContext,
    ) -> None:
        nn.Module.__init__(self)
        PerftLayer.__init__(self, base_layer, name, width, context)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config, router)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        active = [] if self.disable_adapters else [name for name in self.active_adapters if name in self.perft_B]
        try:
            result = self.base_layer(hidden_states, *args, **kwargs)
            # gpt_oss and others return the router's scores as well.
            output = result[0] if isinstance(result, tuple) else result
            for name in active:
                output = output + self._delta(name, hidden_states).to(output.dtype).view(output.shape)
        finally:  # checkpointing stops a layer that it runs again as soon as it has what it needs
            if self.base_routing is not None:
                self.base_routing.forget()
        return (output, *result[1:]) if isinstance(result, tuple) else output

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        check_loaded(self.name, self, prefix, state_dict)
        self._check_variant({key.removeprefix(prefix) for key in state_dict if key.startswith(f"{prefix}perft_")})
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _check_variant(self, loaded: set[str]) -> None:
        # peft only warns of tensors that are left over or missing, and a missing router would stay random.
        own = {key for key, _ in (*self.named_parameters(), *self.named_buffers()) if key.startswith("perft_")}
        adapters = {key.split(".")[1] for key in loaded}
        different = loaded ^ {key for key in own if key.split(".")[1] in adapters}
        if different:
            raise TopicLoraError(
                f"{self.name}: {min(different)} is in the adapter's file or in its configuration, but not in both.",
                "Restore the adapter_config.json that it was saved with.",
            )

    def _delta(self, name: str, x: Tensor) -> Tensor:
        config, (down, up) = self.perft_config[name], self.factors(name)
        x = self.adapter_input(x, down)
        if not (config.routes or config.follows_base):
            return self._unrouted(name, dropped(x, self._dropout(name).shared), (down, up))
        weights, adapters = self.choose(name, x)
        # Whether anybody records or not, since checkpointing must meet the same operations when it runs this again.
        gates = weights.new_zeros(*weights.shape[:-1], config.num_adapters).scatter(-1, adapters, weights)
        gates = always_on(gates, config.shared_adapters)
        note_gates(self, gates, x, shared=config.shared_adapters)
        x = dropped(x, self._dropout(name).shared)
        if not self._sorts(config, x, up[: config.num_adapters]):
            return gated_sum(self._rank_space(name, x, down), gates * config.scale, up)
        routed, always = apart((down, up), config.num_adapters)
        delta = self._sorted(name, x, weights, adapters, routed)
        return delta.view(x.shape) + self._unrouted(name, x, always) if config.shared_adapters else delta

    def _unrouted(self, name: str, x: Tensor, factors: tuple[Tensor, Tensor]) -> Tensor:
        """The plain sum of adapters, (..., d)."""
        down, up = factors
        scaling = x.new_full((*x.shape[:-1], len(down)), self.perft_config[name].scale)
        return gated_sum(self._rank_space(name, x, down), scaling, up)

    def _sorted(
        self, name: str, x: Tensor, weights: Tensor, adapters: Tensor, factors: tuple[Tensor, Tensor]
    ) -> Tensor:
        """What the routed adapters add, (T, d), the pairs of token and adapter sorted."""
        config, (down, up) = self.perft_config[name], factors
        drop = self._dropout(name)
        chosen, scaled = adapters.flatten(0, -2), (weights * config.scale).flatten(0, -2)
        plan = dispatch(chosen, scaled, len(down), even=x.device.type == "cpu")
        activation = F.silu if config.adapter_type == "parallel" else None
        return sparse_delta(x.flatten(0, -2), plan, down, up, activation, dropout=drop.own, rank_dropout=drop.hidden)

    def _dropout(self, name: str) -> _Dropout:
        # The authors' parallel adapter drops what its first matrix returns, before the non-linearity.
        config = self.perft_config[name]
        if not self.training or not config.lora_dropout:
            return _Dropout()
        if config.adapter_type == "parallel":
            return _Dropout(hidden=config.lora_dropout)
        own = config.expert_dropout == "own"
        return _Dropout(own=config.lora_dropout) if own else _Dropout(shared=config.lora_dropout)

    def _rank_space(self, name: str, x: Tensor, down: Tensor) -> Tensor:
        """What every adapter's up projection reads, (..., M, r), of x after a mask that is all adapters'."""
        config, drop = self.perft_config[name], self._dropout(name)
        if drop.own:
            return own_rank_space(x, down, len(down), drop.own)
        hidden = rank_space(x, down)
        return F.silu(dropped(hidden, drop.hidden)) if config.adapter_type == "parallel" else hidden

    def _sorts(self, config: PerftConfig, x: Tensor, up: Tensor) -> bool:
        if config.kernel != "sparse":
            return config.kernel == "auto" and prefers_sparse(x, up, config.top_k)
        self.require_sortable(x, up)
        return not torch.compiler.is_compiling()
