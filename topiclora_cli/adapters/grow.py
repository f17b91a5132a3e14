"""An expert more, or one fewer, in a trained mixture's files, without a change to what the others compute.

With keys K (E, w) and W (w, d) an expert's score is (W x) . k_e / (tau sqrt(d_k)) + b_e. A new expert makes keys and W
one wider. Old keys have 0 there, so no old score reads the new row of W, whatever becomes of it; the new key stands to
the old ones as its vector does to theirs, and has in the new place what they cannot tell. Of k chosen experts with
gates that are a softmax among those alone, a token that does not choose the new expert has the gates that it had, to
the bit: other experts' scores are not part of them. Gates that are shares of all experts are, which is refused.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from topiclora_cli.adapters.old_files import renamed
from topiclora_cli.adapters.topiclora.config import TopicLoraConfig
from topiclora_cli.adapters.topiclora.scope import layer_index
from topiclora_cli.errors import TopicLoraError

_CONTAINER = ".topiclora_"


def refuse_changes(config: TopicLoraConfig) -> None:
    """Raises TopicLoraError, with the reason, for a mixture in which an expert cannot come or go beside the others."""
    others = "so that an expert more or fewer changes the gates of all others"
    if config.router != "topic":
        raise TopicLoraError(
            f"The {config.router} router has no keys from the topic graph and no bias to fit.",
            "Topics come and go under router: topic.",
        )
    if config.top_k is None:
        how = f"top_p: {config.top_p}" if config.top_p else "no top_k"
        raise TopicLoraError(f"With {how} gates are shares of all experts, {others}.", "Train with top_k of 2 or more.")
    if config.gate_weights == "probability" or (config.top_k == 1 and config.gate_weights == "renormalised"):
        how = "top_k: 1" if config.top_k == 1 else "gate_weights: probability"
        raise TopicLoraError(f"With {how} a gate is a share of all experts, {others}.", "Train with top_k: 2.")
    if config.experts_per_layer is not None:
        raise TopicLoraError(
            "Layers with their own numbers of experts share no topic's expert.", "Train with num_experts alone."
        )
    if config.init == "svd":
        raise TopicLoraError(
            "Experts that started from the base's spectrum (init: svd) are counted in what each layer subtracts.",
            "Train with init: kaiming or orthogonal.",
        )


def with_expert(
    tensors: Mapping[str, Tensor], config: TopicLoraConfig, vectors: Tensor
) -> tuple[dict[str, Tensor], TopicLoraConfig]:
    """An adapter's tensors, as saved, and its configuration with one routed expert more, the last of these.

    vectors (E + 1, d): unit expert vectors, the new one's last. The new expert starts as a copy of none: its A is drawn
    as in a fresh adapter, its B, the new row of W and its bias are 0. Draws from the global generator. Raises
    TopicLoraError as `refuse_changes`.
    """
    refuse_changes(config)
    experts, width = config.num_experts, config.key_width or config.num_experts
    cosines = (vectors[:-1].double() @ vectors[-1].double()).float()

    def grown(part: str, tensor: Tensor, keys: Tensor | None) -> Tensor:
        if part in ("A", "B"):
            if part == "A" and config.shared_a:
                return tensor
            new = torch.zeros_like(tensor[:1])
            if part == "A":
                new.uniform_(-(tensor.shape[-1] ** -0.5), tensor.shape[-1] ** -0.5)
            return torch.cat([tensor[:experts], new, tensor[experts:]])
        if part in ("keys", "anchor"):
            assert keys is not None
            return torch.cat([F.pad(tensor, (0, 1)), _key(keys, cosines)[None]])
        return F.pad(tensor, (0, 1)) if part == "bias" else F.pad(tensor, (0, 0, 0, 1))

    larger = replace(
        config,
        num_experts=experts + 1,
        key_width=width + 1,
        first_experts=config.first_experts or experts,
        anchors=None,
    )
    return _changed(tensors, config, grown), larger


def without_expert(
    tensors: Mapping[str, Tensor], config: TopicLoraConfig, expert: int
) -> tuple[dict[str, Tensor], TopicLoraConfig]:
    """An adapter's tensors, as saved, and its configuration without one of the routed experts.

    Raises TopicLoraError as `refuse_changes`, and where fewer than top_k experts would be left.
    """
    refuse_changes(config)
    left = config.num_experts - 1
    if left < max(2, config.top_k or 0):
        raise TopicLoraError(
            f"{left} experts would be left, and each token takes {config.top_k}.", "Train a run with fewer topics."
        )

    def shrunk(part: str, tensor: Tensor, keys: Tensor | None) -> Tensor:
        if part == "weight" or (part == "A" and config.shared_a):
            return tensor
        return torch.cat([tensor[:expert], tensor[expert + 1 :]])

    width, first = config.key_width or config.num_experts, config.first_experts or config.num_experts
    smaller = replace(config, num_experts=left, key_width=width, first_experts=first, anchors=None)
    return _changed(tensors, config, shrunk), smaller


def _key(keys: Tensor, cosines: Tensor) -> Tensor:
    """The key (w + 1,) of a unit vector whose inner products with the old keys (E, w) are these (E,)."""
    told = torch.linalg.pinv(keys.double()) @ cosines.double()
    upright = (1 - told.square().sum()).clamp_min(0).sqrt()
    return torch.cat([told, upright[None]]).to(keys.dtype)


def _changed(
    tensors: Mapping[str, Tensor], config: TopicLoraConfig, change: Callable[[str, Tensor, Tensor | None], Tensor]
) -> dict[str, Tensor]:
    """Every tensor that has a row for each expert as `change(part, tensor, the router's first keys)` has it."""
    tensors = renamed(tensors)
    out = {}
    for name, tensor in tensors.items():
        module, container, rest = name.rpartition(_CONTAINER)
        where = module.removeprefix("base_model.model.")
        if not container or config.at(where, layer_index(where)).router == "uniform":
            out[name] = tensor
            continue
        kind, _, part = rest.partition(".")
        router = f"{module}{container}router."
        keys = tensors.get(f"{router}anchor", tensors.get(f"{router}keys"))
        if kind == "router":
            out[name] = tensor if part == "shared_weight" else change(part, tensor, keys).contiguous()
        else:
            out[name] = change(kind, tensor, keys).contiguous()
    return out
