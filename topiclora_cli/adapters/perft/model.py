"""Puts PERFT adapters beside the MoE blocks of a model: the tuner that peft drives."""

from dataclasses import replace
from typing import Any

import torch
from peft.tuners.tuners_utils import check_target_module_exists
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.output_capturing import maybe_install_capturing_hooks

from topiclora_cli.adapters.keys import keys_from_anchors, simplex
from topiclora_cli.adapters.moe_blocks import MoeBlock, require_moe_blocks
from topiclora_cli.adapters.perft.config import PerftConfig
from topiclora_cli.adapters.perft.layer import NO_MERGE, PerftBlock, PerftLayer
from topiclora_cli.adapters.routers import LinearRouter, Router, RouterSettings, TopicRouter, known_keys
from topiclora_cli.adapters.topiclora.scope import layer_index
from topiclora_cli.adapters.tuner import RoutedTuner
from topiclora_cli.errors import TopicLoraError


class PerftModel(RoutedTuner):
    """A sparse mixture-of-experts model with adapters beside its blocks."""

    prefix = "perft_"
    tuner_layer_cls = PerftLayer
    no_merge = NO_MERGE
    target_module_mapping: dict[str, list[str]] = {}

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Find the model's MoE blocks by their shape and put the adapter beside those that the configuration wants.

        Raises TopicLoraError for a model without such blocks, or a configuration that leaves all of them out.
        """
        config: PerftConfig = self.own_config(adapter_name)
        blocks = {block.name: block for block in require_moe_blocks(model)}
        if layers := [name for name, block in blocks.items() if hasattr(block.module, "self_attn")]:
            raise TopicLoraError(
                f"{layers[0]} holds its experts itself (as Gemma 4 does): there is no block to put adapters beside.",
                "Use LoRA on its experts (adapter.method: lora-experts).",
            )
        if "disk" in getattr(model, "hf_device_map", {}).values():
            # peft looks for the base's offloaded tensors by names that a layer around a whole block changes.
            raise TopicLoraError(
                "PERFT does not work on a base of which parts are offloaded to the disk.",
                "Load the base with enough memory, or offload to the CPU alone.",
            )
        if config.target_modules is None:
            config.target_modules = set(blocks)  # type: ignore[assignment]
        wanted = {name for name in blocks if _wants(config, name)}
        if not wanted:
            raise TopicLoraError(
                "target_modules, exclude_modules and layers_to_transform leave out every MoE block.",
                f"The blocks: {', '.join(blocks)}.",
            )
        config.target_modules = wanted  # type: ignore[assignment]
        _let_recorders_find_routers(model)
        self.__dict__["_blocks"] = blocks
        super().inject_adapter(model, adapter_name, *args, **kwargs)

    def unload(self) -> nn.Module:
        """The base model as it was."""
        for layer in self.model.modules():
            if isinstance(layer, PerftLayer):
                layer.stop_watching()
        return super().unload()

    def _prepare_adapter_config(self, peft_config: Any, model_config: Any) -> Any:
        return peft_config

    def _create_and_replace(  # type: ignore[override]
        self,
        peft_config: PerftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **_: Any,
    ) -> None:
        block: MoeBlock = self.__dict__["_blocks"][current_key]
        width = self.model.config.get_text_config().hidden_size
        config = _on_block(peft_config, block, self.model.config.get_text_config())
        twin = self.twin_of(adapter_name)
        known = known_keys(target.perft_router, twin) if twin and isinstance(target, PerftLayer) else None
        router = _make_router(config, width, known)
        if isinstance(target, PerftLayer):
            target.update_layer(adapter_name, config, router)
            return
        self.refuse_adapted(target, current_key)
        settings = {"name": current_key, "width": width, "context": self.routing_context}
        layer = PerftBlock(target, adapter_name, config, router, **settings)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # peft would look for a weight, which a block does not have.
        setattr(parent, child_name, new_module)


def _let_recorders_find_routers(model: nn.Module) -> None:
    """Have transformers hook the routers that it looks up by their path, before a layer of ours changes that path."""
    for part in model.modules():
        recorders = getattr(part, "_can_record_outputs", None) if isinstance(part, PreTrainedModel) else None
        if any(getattr(recorder, "layer_name", None) for recorder in (recorders or {}).values()):
            maybe_install_capturing_hooks(part)  # type: ignore[arg-type]


def _wants(config: PerftConfig, name: str) -> bool:
    layers = [config.layers_to_transform] if isinstance(config.layers_to_transform, int) else config.layers_to_transform
    if layers and layer_index(name) not in layers:
        return False
    return bool(check_target_module_exists(config, name))


def _on_block(config: PerftConfig, block: MoeBlock, model_config: Any) -> PerftConfig:
    """The configuration with this block's numbers and `auto` decided."""
    if config.variant == "embedded":
        return replace(config, num_adapters=block.num_experts, top_k=block.top_k)
    if config.routes and config.follows_base and config.top_k > block.top_k:
        raise TopicLoraError(
            f"top_k ({config.top_k}) exceeds the {block.top_k} weights of the pretrained router.",
            "Lower top_k, or use router_weight_source: own.",
        )
    if config.renormalize != "auto":
        return config
    # Models without the setting, such as Mixtral, always do.
    as_base = config.top_k > 1 and getattr(model_config, "norm_topk_prob", True)
    return replace(config, renormalize="on" if as_base else "off")


def _make_router(config: PerftConfig, width: int, known: Tensor | None) -> Router | None:
    if not config.routes:
        return None
    settings = RouterSettings(
        width, config.num_adapters, temperature=config.router_temperature, init=config.router_init
    )
    if config.router == "linear":
        return LinearRouter(settings)
    keys = simplex(config.num_adapters) if known is None else known
    if config.anchors is not None:
        keys = keys_from_anchors(torch.tensor(config.anchors))
    return TopicRouter(settings, keys, train_keys=config.train_keys)
