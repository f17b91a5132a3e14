"""Puts mixture layers into a model: the tuner that peft drives."""

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import init_empty_weights
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn
from torch.utils.hooks import RemovableHandle

from topiclora_cli.adapters.keys import keys_from_anchors, simplex
from topiclora_cli.adapters.moe_blocks import exclude_base_routers
from topiclora_cli.adapters.prompt import PromptWatch, default_prompt, prompt_of_generate
from topiclora_cli.adapters.prompt_mean import PromptMean
from topiclora_cli.adapters.routers import ROUTERS, VERSION, Router, RouterSettings, TopicRouter, known_keys
from topiclora_cli.adapters.starts import base_weight, check_segments
from topiclora_cli.adapters.topiclora.config import TopicLoraConfig
from topiclora_cli.adapters.topiclora.layer import NO_MERGE, TopicLoraLayer
from topiclora_cli.adapters.topiclora.linear import TopicLoraLinear
from topiclora_cli.adapters.topiclora.routing import RoutingGroup
from topiclora_cli.adapters.topiclora.same_input import same_input_families
from topiclora_cli.adapters.topiclora.scope import (
    USUAL_FAMILIES,
    count_layers,
    in_cross_attention,
    in_feed_forward,
    layer_index,
    reading_order,
    scope_key,
)
from topiclora_cli.adapters.tuner import RoutedTuner
from topiclora_cli.adapters.unchanging import unchanging_weights
from topiclora_cli.errors import TopicLoraError


class TopicLoraModel(RoutedTuner):
    """A base model whose targeted linear layers carry a mixture of LoRA experts."""

    prefix = "topiclora_"
    tuner_layer_cls = TopicLoraLayer
    no_merge = NO_MERGE
    target_module_mapping: dict[str, list[str]] = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING  # type: ignore[assignment]

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Adapt the targeted layers, then give each group of them its router."""
        config: TopicLoraConfig = self.own_config(adapter_name)
        layers = count_layers(model)
        _check_per_layer(config, layers)
        if config.pools_prompt and getattr(getattr(model, "config", None), "is_encoder_decoder", False):
            raise TopicLoraError("Routing by prompt needs a decoder-only model.", "Use granularity: token.")
        exclude_base_routers(config, model)
        if config.router_scope == "group" and config.router_families is None:
            found = same_input_families(model)
            config.router_families = [list(f) for f in USUAL_FAMILIES] if found is None else found
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        watch = None
        if config.pools_prompt:
            watch = PromptWatch(adapter_name, self.routing_context)
            self.__dict__.setdefault("_watching", {})[adapter_name] = watch.attach(model)
        with init_empty_weights() if kwargs.get("low_cpu_mem_usage") else nullcontext():
            _connect(model, adapter_name, config, layers, watch, self.twin_of(adapter_name))
        if config.init == "svd" and not config.inference_mode:  # what only serves comes from a file
            _start_from_spectrum(_adapted(model, adapter_name), adapter_name)

    def delete_adapter(self, adapter_name: str) -> None:
        """Delete an adapter, and stop watching the model for it."""
        super().delete_adapter(adapter_name)
        self._stop_watching([adapter_name])

    def unload(self) -> nn.Module:
        """The base model as it was."""
        self._stop_watching(list(self.peft_config))
        return super().unload()

    def _stop_watching(self, adapter_names: list[str]) -> None:
        watching: dict[str, list[RemovableHandle]] = self.__dict__.get("_watching", {})
        for name in adapter_names:
            for handle in watching.pop(name, []):
                handle.remove()

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """The base model's generate; what it is given is the prompt that routing by prompt averages over."""
        pools = any(self.peft_config[name].pools_prompt for name in self.active_adapters)  # type: ignore[attr-defined]
        prompt = prompt_of_generate(self.model, args, kwargs) if pools else None
        with default_prompt(prompt, self.model), unchanging_weights(self.model):
            return self.model.generate(*args, **kwargs)

    @staticmethod
    def _check_target_module_exists(peft_config: Any, key: str) -> Any:
        # peft minds layers_to_transform only where a target is the end of a name; all-linear becomes names in full.
        layers = peft_config.layers_to_transform
        chosen = [layers] if isinstance(layers, int) else layers
        if chosen and not peft_config.layers_pattern and layer_index(key) not in chosen:
            return False
        return check_target_module_exists(peft_config, key)

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
        self.refuse_adapted(target, current_key)
        layer = TopicLoraLinear(target, adapter_name, config, name=current_key, context=self.routing_context)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)


def _connect(
    model: nn.Module,
    adapter_name: str,
    config: TopicLoraConfig,
    num_layers: int,
    watch: PromptWatch | None,
    twin: str | None,
) -> None:
    adapted = _adapted(model, adapter_name)
    if config.mixing == "ffn":
        _check_feed_forward(model, adapted, adapter_name)
    groups: dict[str, list[TopicLoraLayer]] = {}
    families = USUAL_FAMILIES if config.router_families is None else config.router_families
    for name in reading_order(list(adapted), families):
        layer = adapted[name]
        scope = layer.topiclora_config[adapter_name].router_scope
        if config.mixing == "ffn" and scope != "linear" and in_feed_forward(name):
            scope = "block"
        groups.setdefault(scope_key(name, scope, families), []).append(layer)
    keys = _keys(config)
    _check_one_sequence(groups.values(), adapter_name)
    for members in groups.values():
        owner = members[0]
        group = RoutingGroup(len(members), owner.routing_context)
        if config.anchors is None and twin is not None:
            keys = known_keys(owner.topiclora_router, twin)
        router = _make_router(owner, adapter_name, num_layers, keys)
        owner.join(adapter_name, group, router, None if watch is None else PromptMean(watch, owner.name))
        for member in members[1:]:
            member.join(adapter_name, group, None)


def _adapted(model: nn.Module, adapter_name: str) -> dict[str, TopicLoraLayer]:
    layers = (layer for layer in model.modules() if isinstance(layer, TopicLoraLayer))
    return {layer.name: layer for layer in layers if adapter_name in layer.topiclora_B}


def _start_from_spectrum(adapted: Mapping[str, TopicLoraLayer], adapter_name: str) -> None:
    """Raises TopicLoraError before any layer has started where one of them cannot."""
    for layer in adapted.values():
        check_segments(layer.get_base_layer(), layer.factors(adapter_name)[1], layer.name)
    for layer in (layer for layer in adapted.values() if not layer.factors(adapter_name)[0].is_meta):
        layer.start_from_spectrum(adapter_name, base_weight(layer.get_base_layer()))


def _make_router(layer: TopicLoraLayer, adapter_name: str, num_layers: int, keys: torch.Tensor | None) -> Router:
    config = layer.topiclora_config[adapter_name]
    kind = ROUTERS[config.router]
    settings = RouterSettings(
        in_features=layer.factors(adapter_name)[0].shape[:-1].numel() if kind.reads_rank_space else layer.in_features,
        num_experts=config.num_experts,
        top_k=config.top_k,
        top_p=config.top_p,
        gate_weights=config.gate_weights,
        temperature=config.router_temperature,
        per_prompt=config.granularity == "prompt",
        width=config.router_width,
        depth=(layer_index(layer.name) or 0) / max(1, num_layers - 1),
        init=config.router_init,
        dropout=config.router_dropout,
        version=config.router_version or VERSION,
        shared=config.shared_experts if config.shared_gate == "softmax" else 0,
        first_experts=config.first_experts,
    )
    if kind is TopicRouter:
        keys = simplex(config.num_experts) if keys is None else keys
        wider = (config.key_width or keys.shape[1]) - keys.shape[1]
        return TopicRouter(settings, F.pad(keys, (0, wider)), train_keys=config.train_keys)
    return kind(settings)


def _keys(config: TopicLoraConfig) -> torch.Tensor | None:
    return None if config.anchors is None else keys_from_anchors(torch.tensor(config.anchors))


def _check_feed_forward(model: nn.Module, adapted: Mapping[str, TopicLoraLayer], adapter_name: str) -> None:
    """Between a feed-forward block's inputs and its output there are k rows per token: all of it must expect them."""
    roles = {name: layer.mixing_role(adapter_name) for name, layer in adapted.items()}
    blocks = {name.rpartition(".")[0] for name, role in roles.items() if role}
    if not blocks:
        raise TopicLoraError(
            "mixing: ffn finds no feed-forward block among the target modules.", "Use mixing: linear for this model."
        )
    for block in blocks:
        children = model.get_submodule(block).named_children()
        linears = [f"{block}.{child}" for child, module in children if _linear(module)]
        if left_out := [name for name in linears if not roles.get(name)]:
            raise TopicLoraError(
                f"mixing: ffn needs every linear layer of a block, and {left_out[0]} is left out.",
                "Add it to target_modules, or use mixing: linear.",
            )
        if {roles[name] for name in linears} != {"in", "out"}:
            raise TopicLoraError(f"{block} has no output layer of a known name.", "Use mixing: linear for this model.")


def _check_one_sequence(groups: Iterable[list[TopicLoraLayer]], adapter_name: str) -> None:
    """What shares a decision must read the same tokens."""
    for members in groups:
        if len(members) > 1 and (crossing := [layer for layer in members if in_cross_attention(layer.name)]):
            scope = crossing[0].topiclora_config[adapter_name].router_scope
            raise TopicLoraError(
                f"router_scope: {scope} would have {crossing[-1].name}, which may read another sequence, "
                f"take the decision of {members[0].name}.",
                "Use router_scope: linear, or leave cross-attention out with exclude_modules.",
            )


def _linear(module: nn.Module) -> bool:
    return hasattr(module, "in_features") or hasattr(module, "nx")


def _check_per_layer(config: TopicLoraConfig, layers: int) -> None:
    for key in ("experts_per_layer", "ranks_per_layer"):
        values = getattr(config, key)
        if values is not None and len(values) != layers:
            raise TopicLoraError(
                f"{key} has {len(values)} numbers, but the model has {layers} layers.", "Give one number per layer."
            )
