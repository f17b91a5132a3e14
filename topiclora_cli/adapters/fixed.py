"""Routers whose gates are the same for every token, in the place of those that choose."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from topiclora_cli.adapters.routers import Decision, Pool, Router, RouterSettings
from topiclora_cli.adapters.shared import always_on
from topiclora_cli.adapters.topiclora.config import TopicLoraConfig
from topiclora_cli.adapters.topiclora.layer import TopicLoraLayer
from topiclora_cli.errors import TopicLoraError


class FixedRouter(Router):
    """Gates (E,), or (E + S,) where S shared experts are part of the softmax, whatever it reads.

    They are kept by reference, so that gradients reach them.
    """

    chooses_itself = True
    takes_prior = False

    def __init__(self, settings: RouterSettings, gates: Tensor) -> None:
        super().__init__(settings)
        self.__dict__["gates"] = gates  # of the caller, and no part of the model's state

    def read(self, projected: Tensor) -> Tensor:
        gates: Tensor = self.__dict__["gates"]
        return gates.to(projected).expand(*projected.shape[:-1], -1)

    def settle_scores(self, projected: Tensor, pool: Pool) -> Decision:
        return self.decide(self.read(projected))  # there is nothing to average over a prompt

    def decide(self, scores: Tensor) -> Decision:
        return Decision(scores[..., : self.settings.num_experts].clamp_min(1e-9).log(), scores)


def router_owners(model: nn.Module, adapter: str) -> dict[str, TopicLoraLayer]:
    """The layers that own a router of this adapter, by their names in the model."""
    layers = (module for module in model.modules() if isinstance(module, TopicLoraLayer))
    return {layer.name: layer for layer in layers if adapter in layer.topiclora_router}


@contextmanager
def fixed_gates(model: nn.Module, adapter: str, gates: Mapping[str, Tensor]) -> Iterator[None]:
    """Have routers of `adapter` give fixed gates to every token inside the block, and all of their experts take part.

    gates: the name of the layer that owns a router -> (E,), or (E + S,) under shared_gate: softmax; routers that are
    not named choose as ever. Raises TopicLoraError for a wrong number of gates, and under mixing: ffn.
    """
    named = {name: layer for name, layer in router_owners(model, adapter).items() if name in gates}
    groups = {id(layer.topiclora_group[adapter]) for layer in named.values()}
    layers: list[TopicLoraLayer] = [module for module in model.modules() if isinstance(module, TopicLoraLayer)]
    members = [each for each in layers if adapter in each.topiclora_group]
    configs = {each: each.topiclora_config[adapter] for each in members if id(each.topiclora_group[adapter]) in groups}
    chosen_by = {each: each.topiclora_router[adapter] for each in named.values()}
    fixed = {each: _fixed(each, adapter, gates[name]) for name, each in named.items()}
    try:
        for each, config in configs.items():
            each.topiclora_config[adapter] = _of_all_experts(config)
        for each, router in fixed.items():
            each.topiclora_router[adapter] = router
        yield
    finally:
        for each, before in chosen_by.items():
            each.topiclora_router[adapter] = before
        for each, config in configs.items():
            each.topiclora_config[adapter] = config


def _of_all_experts(config: TopicLoraConfig) -> TopicLoraConfig:
    """A configuration whose kernels leave no expert out."""
    config = copy.copy(config)
    config.top_k, config.kernel = None, "dense" if config.kernel == "sparse" else config.kernel
    return config


def _fixed(layer: TopicLoraLayer, adapter: str, gates: Tensor) -> FixedRouter:
    config, router = layer.topiclora_config[adapter], layer.topiclora_router[adapter]
    settings: RouterSettings = router.settings  # type: ignore[assignment]
    wanted = settings.num_experts + settings.shared
    if layer.mixing_role(adapter):
        raise TopicLoraError(
            "Experts mixed after a non-linearity (mixing: ffn) take no gates for every token.", "Use mixing: linear."
        )
    if gates.shape != (wanted,):
        raise TopicLoraError(
            f"{layer.name} takes {wanted} gates, and {tuple(gates.shape)} were given.",
            f"Give one for each of its {config.num_experts} experts.",
        )
    return FixedRouter(settings, gates.to(next(layer.topiclora_A[adapter].parameters()).device))


def gates_of_layers(model: nn.Module, adapter: str, gates: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What every adapted layer meets under `fixed_gates`: its name -> (E + S,), those of shared experts last.

    gates: of every owner of a router. Layers that carry a plain LoRA have one expert, with gate one.
    """
    owners = router_owners(model, adapter)
    of_group = {id(layer.topiclora_group[adapter]): name for name, layer in owners.items()}
    found = {}
    for layer in (module for module in model.modules() if isinstance(module, TopicLoraLayer)):
        if adapter in layer.topiclora_group:
            config, own = layer.topiclora_config[adapter], gates[of_group[id(layer.topiclora_group[adapter])]]
            joined = len(own) == config.all_experts
            found[layer.name] = own.detach() if joined else always_on(own.detach(), config.shared_experts)
    return found
