"""The adapters on a linear layer as its state: E LoRA experts, and the router that it owns or shares."""

from typing import Any

import torch
from torch import Tensor, nn

from topiclora_cli.adapters.context import RoutingContext
from topiclora_cli.adapters.mixture import apart, collapse, rank_space
from topiclora_cli.adapters.precision import precise_product
from topiclora_cli.adapters.prompt_mean import PromptMean
from topiclora_cli.adapters.record import note_logits
from topiclora_cli.adapters.routers import Decision, Router, no_pooling
from topiclora_cli.adapters.shared import always_on
from topiclora_cli.adapters.starts import Start, mean_gates, random_a, singular_factors
from topiclora_cli.adapters.topiclora.config import TopicLoraConfig
from topiclora_cli.adapters.topiclora.routing import Routing, RoutingGroup
from topiclora_cli.adapters.topiclora.scope import in_feed_forward, is_output
from topiclora_cli.adapters.tuner import Described, RoutedTunerLayer
from topiclora_cli.adapters.weights import Factor, read
from topiclora_cli.errors import TopicLoraError

Factors = tuple[Tensor, Tensor]  # A (E + S or 1, r, d_in) and B (E + S, r, d_out), the routed experts first
NO_MERGE = (
    "A routed mixture has no exact dense weight and cannot be merged.",
    "Export it with fixed gates (topiclora merge), or serve the adapter itself.",
)


class TopicLoraLayer(RoutedTunerLayer):
    """State of the adapters on one base layer.

    Per adapter name: topiclora_A, whose weight is (E + S, r, d_in), or (1, r, d_in) when shared; topiclora_B, whose
    weight is (E + S, r, d_out), zero at first unless they start from the base's spectrum: the S experts for every token
    stand behind the E routed ones; topiclora_start, what experts from the spectrum began with;
    topiclora_router, where this layer is the first of its group; topiclora_config, this layer's own.
    """

    adapter_layer_names = ("topiclora_A", "topiclora_B", "topiclora_router")
    other_param_names = (
        *("topiclora_start", "topiclora_config", "topiclora_dropout", "topiclora_group", "topiclora_prompt"),
    )
    no_merge = NO_MERGE
    router_container = "topiclora_router"
    second_factors = "topiclora_B"
    precise_containers = ("topiclora_start",)

    def __init__(self, base_layer: nn.Module, name: str, context: RoutingContext) -> None:
        self.base_layer = base_layer
        self.name = name
        self.routing_context = context
        self.in_features, self.out_features = _features(self.get_base_layer(), name)
        self.topiclora_A = nn.ModuleDict()
        self.topiclora_B = nn.ModuleDict()
        self.topiclora_router = nn.ModuleDict()
        self.topiclora_start = nn.ModuleDict()
        self.topiclora_config: dict[str, TopicLoraConfig] = {}
        self.topiclora_dropout = nn.ModuleDict()
        self.topiclora_group: dict[str, RoutingGroup] = {}
        self.topiclora_prompt: dict[str, PromptMean] = {}
        self.frozen_peft_weight_names: dict[str, tuple[str, ...]] = {}
        self._disable_adapters = False
        self.merged_adapters = []

    def update_layer(self, adapter_name: str, config: TopicLoraConfig) -> None:
        """Add an adapter, or replace the one of that name; its router follows with `join`."""
        experts_of_a = 1 if config.shared_a else config.all_experts
        lora_a = random_a(experts_of_a, config.r, self.in_features, orthogonal=config.init == "orthogonal")
        lora_b = torch.zeros(config.all_experts, config.r, self.out_features)
        self.topiclora_A[adapter_name] = Factor(f"{self.name}: topiclora_A.{adapter_name}", lora_a)
        self.topiclora_B[adapter_name] = Factor(f"{self.name}: topiclora_B.{adapter_name}", lora_b)
        for parts in (self.topiclora_router, self.topiclora_start):
            if adapter_name in parts:
                del parts[adapter_name]
        self.topiclora_config[adapter_name] = config
        self.topiclora_dropout[adapter_name] = (
            nn.Dropout(config.lora_dropout) if config.lora_dropout > 0 else nn.Identity()
        )
        self.frozen_peft_weight_names[adapter_name] = () if config.train_experts else ("topiclora_A", "topiclora_B")
        self._move_adapter_to_device_of_base_layer(adapter_name)
        if config.init == "svd":
            lora_a, lora_b = self.factors(adapter_name)
            self.topiclora_start[adapter_name] = Start(lora_a, lora_b).settle(self.name, lora_a.device)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    @torch.no_grad()
    def start_from_spectrum(self, adapter_name: str, weight: Tensor) -> None:
        """Start the experts from segments of the base weight (d_out, d_in), and subtract their mean from now on."""
        config = self.topiclora_config[adapter_name]
        lora_a, lora_b = self.factors(adapter_name)
        first_a, first_b = singular_factors(weight, len(lora_b), config.r, config.scale, leading=config.shared_experts)
        lora_a.copy_(first_a)
        lora_b.copy_(first_b)
        start: Start = self.topiclora_start[adapter_name]  # type: ignore[assignment]
        start.keep(lora_a, lora_b, config.scale * mean_gates(config))

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
        router.context = self.routing_context
        trains = adapter_name in self.active_adapters and not self.topiclora_config[adapter_name].inference_mode
        router.requires_grad_(trains)

    def factors(self, adapter_name: str) -> Factors:
        """A (E + S or 1, r, d_in) and B (E + S, r, d_out), ready to multiply with."""
        return read(self.topiclora_A[adapter_name]), read(self.topiclora_B[adapter_name])

    def routed_factors(self, adapter_name: str) -> Factors:
        """A (E or 1, r, d_in) and B (E, r, d_out), without the experts that every token passes through."""
        return apart(self.factors(adapter_name), self.topiclora_config[adapter_name].num_experts)[0]

    def expert_hidden(self, adapter_name: str, x: Tensor) -> Tensor:
        """A_e x of the routed experts, (..., E or 1, r), without dropout."""
        lora_a = self.routed_factors(adapter_name)[0]
        return rank_space(self.adapter_input(x, lora_a), lora_a)

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
        shared = config.shared_experts
        gates = decision.gates if config.shared_gate == "softmax" else always_on(decision.gates, shared)
        routing = Routing(gates, decision.k or config.top_k or config.num_experts, config.scale, shared)
        group.put(routing)
        return routing

    def as_lora(self, adapter_name: str, gates: Tensor) -> tuple[Tensor, Tensor]:
        """A (R, d_in) and B (d_out, R) of the plain LoRA that equals this adapter under fixed gates (E + S,).

        R is (E + S)*r; r where the experts share A; 2*(E + S)*r where they started from the base's spectrum: what they
        began with is a LoRA of its own. Raises TopicLoraError for another number of gates, and where experts are mixed
        after a non-linearity: no LoRA equals that.
        """
        config = self.topiclora_config[adapter_name]
        if self.mixing_role(adapter_name):
            raise TopicLoraError(
                "Experts mixed after a non-linearity (mixing: ffn) equal no LoRA, even with fixed gates.",
                "Serve the adapter itself, or train with mixing: linear.",
            )
        if gates.shape != (config.all_experts,):
            raise TopicLoraError(
                f"{self.name} has {config.all_experts} experts, but gates of shape {tuple(gates.shape)} were given.",
                "Give one for each, those of shared experts last (observe_gates with shared=True).",
            )
        factors = [factor.detach() for factor in self.factors(adapter_name)]
        lora_a, lora_b = collapse(gates.to(factors[0].device) * config.scale, *factors)
        if adapter_name not in self.topiclora_start:
            return lora_a, lora_b
        start: Start = self.topiclora_start[adapter_name]  # type: ignore[assignment]
        start_a, start_b = start.as_lora()
        return torch.cat([lora_a, start_a]), torch.cat([lora_b, start_b], dim=1)

    def idle_parameters(self, adapter_name: str) -> int:
        """Trainable parameters of the experts that one token leaves out; 0 where their number varies.

        A token leaves out routed experts alone.
        """
        config = self.topiclora_config.get(adapter_name)
        if config is None or config.top_k is None:
            return 0
        experts = [self.topiclora_B[adapter_name]] + ([] if config.shared_a else [self.topiclora_A[adapter_name]])
        trainable = sum(p.numel() for factor in experts for p in factor.parameters() if p.requires_grad)
        return round((config.num_experts - config.top_k) / config.all_experts * trainable)

    def describe(self, adapter_name: str) -> Described:
        """Number of experts, rank of one, and the router's kind."""
        config = self.topiclora_config[adapter_name]
        router = config.router if config.num_experts > 1 else "-"
        return Described(config.num_experts, config.r, router, config.shared_experts)

    def mixing_role(self, adapter_name: str) -> str | None:
        """With mixing: ffn, whether this layer fans its block's tokens 'out' to k rows or 'in' again; else None."""
        if self.topiclora_config[adapter_name].mixing != "ffn" or not in_feed_forward(self.name):
            return None
        return "in" if is_output(self.name) else "out"


def _features(base: Any, name: str) -> tuple[int, int]:
    if hasattr(base, "in_features") and hasattr(base, "out_features"):
        return base.in_features, base.out_features
    if hasattr(base, "nx") and hasattr(base, "nf"):  # transformers' Conv1D (GPT-2)
        return base.nx, base.nf
    raise TopicLoraError(f"{name} is a {type(base).__name__}, not a linear layer.", "Change adapter.target_modules.")
