"""A linear layer with E LoRA experts and a router beside it."""

import math
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from topiclora_cli.adapters.mixture import collapse, mixture_delta, select_experts
from topiclora_cli.adapters.record import note_gates, note_logits
from topiclora_cli.adapters.routers import LinearRouter, TopicRouter, keys_from_anchors, simplex
from topiclora_cli.adapters.topiclora.config import TopicLoraConfig
from topiclora_cli.errors import TopicLoraError


class TopicLoraLayer(BaseTunerLayer):
    """State of the adapters on one base layer; everything an adapter needs is here, nothing is shared across layers.

    Per adapter name: topiclora_A (E, r, d_in), or (1, r, d_in) when shared; topiclora_B (E, r, d_out), zero at first;
    topiclora_router; topiclora_config.
    """

    adapter_layer_names = ("topiclora_A", "topiclora_B", "topiclora_router")
    other_param_names = ("topiclora_config", "topiclora_dropout")

    def __init__(self, base_layer: nn.Module, name: str) -> None:
        self.base_layer = base_layer
        self.name = name
        self.in_features, self.out_features = _features(self.get_base_layer(), name)
        self.topiclora_A = nn.ParameterDict()
        self.topiclora_B = nn.ParameterDict()
        self.topiclora_router = nn.ModuleDict()
        self.topiclora_config: dict[str, TopicLoraConfig] = {}
        self.topiclora_dropout = nn.ModuleDict()
        self._disable_adapters = False
        self.merged_adapters = []

    def update_layer(self, adapter_name: str, config: TopicLoraConfig) -> None:
        """Add an adapter, or replace the one of that name."""
        experts_of_a = 1 if config.shared_a else config.num_experts
        lora_a = torch.empty(experts_of_a, config.r, self.in_features)
        for expert in lora_a:
            nn.init.kaiming_uniform_(expert, a=math.sqrt(5))
        self.topiclora_A[adapter_name] = nn.Parameter(lora_a)
        self.topiclora_B[adapter_name] = nn.Parameter(torch.zeros(config.num_experts, config.r, self.out_features))
        keys = _keys(config)
        router = _make_router(self.in_features, keys, config)
        self.topiclora_router[adapter_name] = router
        self.topiclora_config[adapter_name] = config
        self.topiclora_dropout[adapter_name] = (
            nn.Dropout(config.lora_dropout) if config.lora_dropout > 0 else nn.Identity()
        )
        self._move_adapter_to_device_of_base_layer(adapter_name)
        if isinstance(router, TopicRouter):
            router.restore_precision(keys)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def route(self, adapter_name: str, x: Tensor) -> tuple[Tensor, Tensor]:
        """Router logits and gates, both (..., E) in float32, for inputs x (..., d_in)."""
        logits = self.topiclora_router[adapter_name](x)
        return logits, select_experts(logits, self.topiclora_config[adapter_name].top_k)

    def as_lora(self, adapter_name: str, gates: Tensor) -> tuple[Tensor, Tensor]:
        """A (E*r, d_in) and B (d_out, E*r) of the plain LoRA that equals this adapter under fixed gates (E,)."""
        scaled = gates * self.topiclora_config[adapter_name].scaling
        return collapse(scaled, self.topiclora_A[adapter_name].detach(), self.topiclora_B[adapter_name].detach())


class TopicLoraLinear(nn.Module, TopicLoraLayer):
    """The layer that takes a linear layer's place in the model."""

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: TopicLoraConfig, *, name: str) -> None:
        nn.Module.__init__(self)
        TopicLoraLayer.__init__(self, base_layer, name)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return result
        for adapter_name in self.active_adapters:
            if adapter_name not in self.topiclora_A:
                continue
            config = self.topiclora_config[adapter_name]
            lora_a, lora_b = self.topiclora_A[adapter_name], self.topiclora_B[adapter_name]
            # Under autocast the matmuls choose their precision; a cast here would only be undone.
            hidden = x if torch.is_autocast_enabled(x.device.type) else self._cast_input_dtype(x, lora_a.dtype)
            logits, gates = self.route(adapter_name, hidden)
            note_logits(self.name, logits)
            note_gates(self.name, gates, hidden)
            hidden = self.topiclora_dropout[adapter_name](hidden)
            result = result + mixture_delta(hidden, gates * config.scaling, lora_a, lora_b).to(result.dtype)
        return result

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Always refuses: gates depend on the input, so no dense weight equals this layer."""
        raise TopicLoraError(
            "A routed mixture has no exact dense weight and cannot be merged.",
            "Export it with fixed gates (topiclora merge), or serve the adapter itself.",
        )

    def unmerge(self) -> None:
        """Does nothing, since nothing is ever merged."""


def _keys(config: TopicLoraConfig) -> Tensor:
    if config.anchors is None:
        return simplex(config.num_experts)
    return keys_from_anchors(torch.tensor(config.anchors))


def _make_router(in_features: int, keys: Tensor, config: TopicLoraConfig) -> nn.Module:
    if config.router == "linear":
        return LinearRouter(in_features, config.num_experts, temperature=config.router_temperature)
    return TopicRouter(in_features, keys, temperature=config.router_temperature, train_keys=config.train_keys)


def _features(base: Any, name: str) -> tuple[int, int]:
    if hasattr(base, "in_features") and hasattr(base, "out_features"):
        return base.in_features, base.out_features
    if hasattr(base, "nx") and hasattr(base, "nf"):  # transformers' Conv1D (GPT-2)
        return base.nx, base.nf
    raise TopicLoraError(f"{name} is a {type(base).__name__}, not a linear layer.", "Change adapter.target_modules.")
