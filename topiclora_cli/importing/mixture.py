"""A mixture on linear layers, put together of its layers' tensors: one configuration, ranks and scales made alike."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from topiclora_cli.adapters.topiclora import TopicLoraConfig
from topiclora_cli.adapters.topiclora.scope import layer_index
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.importing.base import Base
from topiclora_cli.importing.imported import Imported

PREFIX = "base_model.model."


@dataclass(frozen=True)
class Linear:
    """One adapted linear layer: A (E or 1, r, d_in), B (E, r, d_out), the scale of their product, and the tensors of
    its router by their names, none where another layer's decides or there is but one expert."""

    a: Tensor
    b: Tensor
    scale: float
    router: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, a: list[Tensor], b: list[Tensor], scale: float, **router: Tensor) -> "Linear":
        """From matrices A_e (r, d_in) and B_e (d_out, r), as linear layers' weights; one A serves all experts."""
        return cls(torch.stack(a), torch.stack([each.T for each in b]), scale, router)

    @classmethod
    def scaled(cls, a: list[Tensor], b: list[Tensor], alpha: float, rank: int, /, **router: Tensor) -> "Linear":
        """As `of`, by alpha / rank; raises TopicLoraError where the matrices are of another rank than that."""
        if len(a[0]) != rank:
            raise TopicLoraError(
                f"The checkpoint's configuration says rank {rank}, and its matrices are of rank {len(a[0])}.",
                "Put the configuration that it was saved with beside it.",
            )
        return cls.of(a, b, alpha / rank, **router)

    @property
    def experts(self) -> int:
        """E."""
        return len(self.b)

    @property
    def rank(self) -> int:
        """r."""
        return self.a.shape[1]


def build(
    method: str, linears: Mapping[str, Linear], base: Base, whole: Mapping[str, Tensor] | None = None, **settings: Any
) -> Imported:
    """The adapter with these layers by name; settings are the configuration's, lora_alpha among them.

    whole: what was saved whole beside it. Where a layer's rank or scale is not what the configuration makes it, zeros
    fill its factors up and B takes the difference. Raises TopicLoraError for settings that do not fit together.
    """
    whole = whole or {}
    routed = {name for name, linear in linears.items() if linear.experts > 1}
    experts = {layer_index(name): linears[name].experts for name in routed}
    for name in routed:
        if linears[name].experts != experts[layer_index(name)]:
            raise TopicLoraError(f"{name} has {linears[name].experts} experts and its layer's others more or fewer.")
    ranks: dict[int | None, int] = {}
    for name, linear in linears.items():
        ranks[layer_index(name)] = max(linear.rank, ranks.get(layer_index(name), 0))
    settings |= _by_layer("experts_per_layer", "num_experts", experts, linears, base)
    settings |= _by_layer("ranks_per_layer", "r", ranks, linears, base)
    plain = sorted(set(linears) - routed)
    config = TopicLoraConfig(
        task_type="CAUSAL_LM",
        inference_mode=True,
        base_model_name_or_path=base.name,
        target_modules=_short(linears, base),
        plain_modules=_ends(plain, apart_from=routed) if plain else None,
        modules_to_save=sorted({key.split(".")[-2] for key in whole}) or None,
        **settings,
    )
    tensors = dict(whole)
    for name, linear in linears.items():
        tensors |= _tensors(name, linear, config.at(name, layer_index(name)))
    return Imported(method, config, {key: value.contiguous() for key, value in tensors.items()})


def _tensors(name: str, linear: Linear, config: TopicLoraConfig) -> dict[str, Tensor]:
    a, b, fill = linear.a, linear.b, (0, 0, 0, config.r - linear.rank)
    if abs(linear.scale / config.scale - 1) > 1e-9:
        b = b.float() * (linear.scale / config.scale)
    found = {"topiclora_A.weight": F.pad(a, fill), "topiclora_B.weight": F.pad(b, fill)}
    found |= {f"topiclora_router.{part}": tensor.float() for part, tensor in linear.router.items()}
    return {f"{PREFIX}{name}.{part}": tensor for part, tensor in found.items()}


def _by_layer(
    key: str, single: str, numbers: Mapping[int | None, int], linears: Iterable[str], base: Base
) -> dict[str, int | list[int]]:
    """One number for all layers or one for each; layers without an adapted one take the largest."""
    if len(set(numbers.values())) <= 1:
        return {single: next(iter(numbers.values()), 1)}
    layers = base.layers or 1 + max(layer_index(name) or 0 for name in linears)
    most = max(numbers.values())
    return {single: most, key: [numbers.get(layer, most) for layer in range(layers)]}


def _short(linears: Mapping[str, Linear], base: Base) -> list[str]:
    """The last names of the layers where these mean them and no other in the base, else their names in full."""
    last = {name.rpartition(".")[2] for name in linears}
    meant = {name for name in base.linears() if name.rpartition(".")[2] in last}
    return sorted(last if meant == set(linears) else linears)


def _ends(names: Iterable[str], *, apart_from: Iterable[str]) -> list[str]:
    """Ends of names that tell these from others: the last part, with its block's name before it, or all."""
    for parts in (1, 2):
        ends = {_end(name, parts) for name in names}
        if not ends & {_end(name, parts) for name in apart_from}:
            return sorted(ends)
    return sorted(names)


def _end(name: str, parts: int) -> str:
    return ".".join(name.split(".")[-parts:])
