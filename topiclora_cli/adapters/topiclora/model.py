"""Puts mixture layers into a model: the tuner that peft drives."""

from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn

from topiclora_cli.adapters.keys import keys_from_anchors, simplex
from topiclora_cli.adapters.moe_blocks import exclude_base_routers
from topiclora_cli.adapters.prompt import PromptMean, PromptWatch
from topiclora_cli.adapters.routers import ROUTERS, RouterSettings, TopicRouter
from topiclora_cli.adapters.topiclora.config import TopicLoraConfig
from topiclora_cli.adapters.topiclora.layer import TopicLoraLayer, TopicLoraLinear
from topiclora_cli.adapters.topiclora.scope import RoutingGroup, in_feed_forward, layer_index, reading_order, scope_key
from topiclora_cli.errors import TopicLoraError


class TopicLoraModel(BaseTuner):
    """A base model whose targeted linear layers carry a mixture of LoRA experts."""

    prefix = "topiclora_"
    tuner_layer_cls = TopicLoraLayer
    target_module_mapping: dict[str, list[str]] = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING  # type: ignore[assignment]

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Adapt the targeted layers, then give each group of them its router."""
        config: TopicLoraConfig = self.peft_config[adapter_name]  # type: ignore[assignment]
        layers = 1 + max((layer_index(name) or 0 for name, _ in model.named_modules()), default=0)
        _check_per_layer(config, layers)
        exclude_base_routers(config, model)
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        _connect(model, adapter_name, config, layers)

    def _create_and_replace(  # type: ignore[override]
        self,
        peft_config: TopicLoraConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **_: Any,
    ) -> None:
        config = peft_config.at(current_key, layer_index(current_key))
        if isinstance(target, TopicLoraLayer):
            target.update_layer(adapter_name, config)
            return
        if isinstance(target, BaseTunerLayer):
            raise TopicLoraError(f"{current_key} already carries a {type(target).__name__} of another peft method.")
        layer = TopicLoraLinear(target, adapter_name, config, name=current_key)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _check_merge_allowed(self) -> None:
        raise TopicLoraError(
            "A routed mixture has no exact dense weight and cannot be merged.",
            "Export it with fixed gates (topiclora merge), or serve the adapter itself.",
        )

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """Always refuses, naming the ways out."""
        self._check_merge_allowed()


def _connect(model: nn.Module, adapter_name: str, config: TopicLoraConfig, num_layers: int) -> None:
    adapted = {
        layer.name: layer
        for layer in model.modules()
        if isinstance(layer, TopicLoraLayer) and adapter_name in layer.topiclora_B
    }
    groups: dict[str, list[TopicLoraLayer]] = {}
    for name in reading_order(list(adapted)):
        layer = adapted[name]
        scope = layer.topiclora_config[adapter_name].router_scope
        if config.mixing == "ffn" and scope != "linear" and in_feed_forward(name):
            scope = "block"
        groups.setdefault(scope_key(name, scope), []).append(layer)
    watch = None
    if config.pools_prompt:
        watch = PromptWatch()
        model.register_forward_pre_hook(watch.observe, with_kwargs=True)
    keys = _keys(config)
    for members in groups.values():
        group = RoutingGroup(len(members))
        owner = members[0]
        router = _make_router(owner, adapter_name, num_layers, keys)
        owner.join(adapter_name, group, router, None if watch is None else PromptMean(watch))
        for member in members[1:]:
            member.join(adapter_name, group, None)


def _make_router(layer: TopicLoraLayer, adapter_name: str, num_layers: int, keys: torch.Tensor | None) -> nn.Module:
    config = layer.topiclora_config[adapter_name]
    kind = ROUTERS[config.router]
    settings = RouterSettings(
        in_features=layer.topiclora_A[adapter_name].shape[:-1].numel() if kind.reads_rank_space else layer.in_features,
        num_experts=config.num_experts,
        top_k=config.top_k,
        top_p=config.top_p,
        temperature=config.router_temperature,
        per_prompt=config.granularity == "prompt",
        width=config.router_width,
        depth=(layer_index(layer.name) or 0) / max(1, num_layers - 1),
    )
    if kind is TopicRouter:
        return TopicRouter(
            settings, simplex(config.num_experts) if keys is None else keys, train_keys=config.train_keys
        )
    return kind(settings)


def _keys(config: TopicLoraConfig) -> torch.Tensor | None:
    return None if config.anchors is None else keys_from_anchors(torch.tensor(config.anchors))


def _check_per_layer(config: TopicLoraConfig, layers: int) -> None:
    for key in ("experts_per_layer", "ranks_per_layer"):
        values = getattr(config, key)
        if values is not None and len(values) != layers:
            raise TopicLoraError(
                f"{key} has {len(values)} numbers, but the model has {layers} layers.", "Give one number per layer."
            )
