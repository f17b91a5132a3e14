"""Which auxiliary losses a recipe asks for, computed from one recorded forward pass."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from topiclora_cli.adapters.forcing import choosing_routers, refuse_other_experts
from topiclora_cli.adapters.routers import CosineRouter, Router, TopicRouter
from topiclora_cli.adapters.topiclora import TopicLoraLayer
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe.loss import LossSection
from topiclora_cli.training.losses import (
    centre_alignment,
    expert_contrast,
    key_anchor,
    kl_weight_at,
    orthogonality,
    output_products,
    prior_distance,
)
from topiclora_cli.training.model_losses import BASE_COEFFICIENT
from topiclora_cli.training.step import Step, aligned_layers, mean, spread_tokens
from topiclora_cli.training.token_terms import TOKEN_TERMS, token_loss
from topiclora_cli.training.whole_step import Parts

_OF_ROUTERS = ("kl", *(name for name in TOKEN_TERMS if name != "base_balance"))

# What reads an adapter's weights beside its forward pass, where sharding has taken them apart.
_OF_WEIGHTS = ("contrast", "anchor", "orthogonal", "centre")


def refuse_sharded_terms(section: LossSection) -> None:
    """Raises TopicLoraError for a weight above zero whose term cannot be computed on sharded parameters."""
    for name in _OF_WEIGHTS:
        if getattr(section, name).weight > 0:
            raise TopicLoraError(
                f"loss.{name}.weight is above 0, but its term reads weights that FSDP shards.",
                "Set it to 0, or train without FSDP: processes then hold the whole model each.",
            )


def reach_routers(section: LossSection) -> bool:
    """Whether a term with a weight above zero trains routers by what they decide, used or not."""
    return any(getattr(section, name).weight > 0 for name in _OF_ROUTERS)


def refuse_idle_terms(section: LossSection, model: nn.Module, base: nn.Module) -> None:
    """Raises TopicLoraError where a weight is above zero and nothing in the adapted model or its base has the term."""
    modules = list(model.modules())
    mixture = any(isinstance(module, TopicLoraLayer) for module in modules)
    routed = any(isinstance(module, Router) for module in modules)
    trained_keys = any(isinstance(m, TopicRouter) and isinstance(m.keys, nn.Parameter) for m in modules)
    for name, (present, subject) in {
        **dict.fromkeys(_OF_ROUTERS, (routed, "the adapter has no router")),
        "anchor": (trained_keys, "the adapter has no topic router that trains its keys"),
        "contrast": (mixture, "the adapter has no mixture on a linear layer"),
        "orthogonal": (mixture, "the adapter has no mixture on a linear layer"),
        "centre": (any(isinstance(module, CosineRouter) for module in modules), "the adapter has no cosine router"),
        "base_balance": (hasattr(base, BASE_COEFFICIENT), "the base model reports no router loss"),
    }.items():
        if getattr(section, name).weight > 0 and not present:
            raise TopicLoraError(
                f"loss.{name}.weight is above 0, but {subject}.", "Set it to 0, or change adapter.method or model.name."
            )
    if section.prior_forcing.start > 0 and not choosing_routers(model):
        raise TopicLoraError(
            "loss.prior_forcing.start is above 0, but the adapter has no router whose choice a prior could force.",
            "Set it to 0, or change adapter.router or adapter.method.",
        )


def loss_terms(step: Step, measured: Mapping[str, Parts]) -> dict[str, tuple[float, Tensor]]:
    """Weight of each term above zero and this micro-batch's share of its value; the others are not computed.

    A term is the sum of the shares of a step's micro-batches, averaged over processes. measured: what
    `token_terms.measure` found. Raises TopicLoraError where the prior and a router disagree about the number of
    experts.
    """
    section = step.section
    terms = {name: (getattr(section, name).weight, token_loss(step, name, measured[name])) for name in measured}
    for name, share in _SHARES.items():
        weight = getattr(section, name).weight
        if weight > 0 and (value := share(step)) is not None:
            terms[name] = (_scheduled(step) if name == "kl" else weight, value)
    return terms


def _kl(step: Step) -> Tensor | None:
    if step.prior is None or not step.pooled:
        return None
    experts = step.prior.shape[-1]
    for name, routing in step.pooled.items():
        refuse_other_experts(experts, name, routing.shape[-1])
    distance = prior_distance(
        torch.stack(list(step.pooled.values())),
        prior=step.prior,
        temperature=step.section.kl.temperature,
        smoothing=step.section.kl.smoothing,
        direction=step.section.kl.direction,
    )
    if step.section.kl.confidence_weighted and step.confidence is not None:
        distance = distance * step.confidence
    return step.whole.processes * step.of_examples(distance)


def _scheduled(step: Step) -> float:
    section = step.section
    return kl_weight_at(step.progress, peak=section.kl.weight, floor=section.kl.floor, warmup=section.kl.warmup)


def _contrast(step: Step) -> Tensor | None:
    section, inputs = step.section, step.record.inputs
    layers = {layer.name: (adapter, layer) for adapter, layer in step.adapted()}
    places, real = spread_tokens(step.token_mask, section.contrast.tokens)
    examples = torch.arange(len(places), device=places.device).unsqueeze(1)
    values = []
    for name in aligned_layers(list(inputs), section.kl.layers):
        # A layer that reads something else than one row per token has no rows for the sampled tokens.
        if name not in layers or inputs[name].shape[:2] != step.token_mask.shape:
            continue
        adapter, layer = layers[name]
        lora_a, lora_b = layer.routed_factors(adapter)
        products = output_products(inputs[name][examples, places].to(lora_a.dtype), lora_a, lora_b)
        selected = (step.record.gates[name][examples, places] > 0) & real.unsqueeze(-1)
        values.append(expert_contrast(products, selected=selected, temperature=section.contrast.temperature))
    return step.whole.processes * step.of_examples(torch.stack(values).mean(0)) if values else None


def _anchor(step: Step) -> Tensor | None:
    routers = [m for m in step.model.modules() if isinstance(m, TopicRouter) and isinstance(m.keys, nn.Parameter)]
    if not routers:
        return None
    return key_anchor([router.keys for router in routers], [router.anchor for router in routers])


def _orthogonal(step: Step) -> Tensor | None:
    return _over_layers(step, (orthogonality(*layer.routed_factors(name)) for name, layer in step.adapted()))


def _centre(step: Step) -> Tensor | None:
    return _over_layers(
        step,
        (
            centre_alignment(router.keys, layer.routed_factors(name)[1])
            for name, layer in step.adapted()
            for owner, router in layer.topiclora_router.items()
            if owner == name and isinstance(router, CosineRouter)
        ),
    )


def _over_layers(step: Step, values: Iterable[Tensor]) -> Tensor | None:
    found = list(values)
    if not found:
        return None
    return torch.stack(found).sum() if step.section.reduce_routers == "sum" else mean(found)


def _of_weights(value: Callable[[Step], Tensor | None]) -> Callable[[Step], Tensor | None]:
    """The share of a term that no example has a part in: each micro-batch has the same."""

    def share(step: Step) -> Tensor | None:
        whole = value(step)
        return None if whole is None else whole / step.whole.micro_batches

    return share


_SHARES: Mapping[str, Callable[[Step], Tensor | None]] = {
    "kl": _kl,
    "contrast": _contrast,
    "anchor": _of_weights(_anchor),
    "orthogonal": _of_weights(_orthogonal),
    "centre": _of_weights(_centre),
}
