"""Which auxiliary losses a recipe asks for, computed from one recorded forward pass."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from topiclora_cli.adapters.routers import CosineRouter, Router, TopicRouter
from topiclora_cli.adapters.topiclora import TopicLoraLayer
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe.schema import LossSection
from topiclora_cli.training.losses import (
    centre_alignment,
    expert_contrast,
    generalised_js,
    key_anchor,
    kl_weight_at,
    local_balance,
    normal_profile,
    orthogonality,
    poisson_profile,
    prior_kl,
    sparsity,
    switch_balance,
    z_loss,
)
from topiclora_cli.training.step import Step, aligned_layers, mean, spread_tokens

# The attribute by which transformers' sparse models weigh the router loss that they report.
BASE_COEFFICIENT = "router_aux_loss_coef"
_OF_ROUTERS = ("kl", "balance", "local_balance", "normal", "z", "gjs", "poisson", "sparsity")


# What reads an adapter's weights beside its forward pass, where sharding has taken them apart.
_OF_WEIGHTS = ("contrast", "anchor", "orthogonal", "centre")


def refuse_sharded_terms(section: LossSection) -> None:
    """Raises TopicLoraError for a weight above zero whose term cannot be computed on sharded parameters."""
    for name in _OF_WEIGHTS:
        if getattr(section, f"{name}_weight") > 0:
            raise TopicLoraError(
                f"loss.{name}_weight is above 0, but its term reads weights that FSDP shards.",
                "Set it to 0, or train without FSDP: processes then hold the whole model each.",
            )


def reach_routers(section: LossSection) -> bool:
    """Whether a term with a weight above zero trains routers by what they decide, used or not."""
    return any(getattr(section, f"{name}_weight") > 0 for name in _OF_ROUTERS)


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
        if getattr(section, f"{name}_weight") > 0 and not present:
            raise TopicLoraError(
                f"loss.{name}_weight is above 0, but {subject}.", "Set it to 0, or change adapter.method or model.name."
            )


def loss_terms(step: Step) -> dict[str, tuple[float, Tensor]]:
    """Weight and value of each term with a weight above zero; the others are not computed.

    Raises TopicLoraError where the prior and a router disagree about the number of experts.
    """
    terms = {}
    for name, compute in _TERMS.items():
        weight = getattr(step.section, f"{name}_weight")
        if weight > 0 and (value := compute(step)) is not None:
            terms[name] = (_scheduled(step) if name == "kl" else weight, value)
    return terms


def _kl(step: Step) -> Tensor | None:
    if step.prior is None or not step.pooled:
        return None
    experts = step.prior.shape[-1]
    for name, routing in step.pooled.items():
        if routing.shape[-1] != experts:
            raise TopicLoraError(
                f"The prior is over {experts} experts, but the router of {name} has {routing.shape[-1]}.",
                f"Set adapter.num_experts to {experts}, or rebuild the graph for {routing.shape[-1]} experts.",
            )
    return prior_kl(
        torch.stack(list(step.pooled.values())),
        prior=step.prior,
        weight=step.confidence if step.section.confidence_weighted else None,
        temperature=step.section.temperature,
        smoothing=step.section.prior_smoothing,
        direction=step.section.kl_direction,
    )


def _scheduled(step: Step) -> float:
    section = step.section
    return kl_weight_at(step.progress, peak=section.kl_weight, floor=section.kl_floor, warmup=section.kl_warmup)


def _contrast(step: Step) -> Tensor | None:
    section, inputs = step.section, step.record.inputs
    layers = {layer.name: (adapter, layer) for adapter, layer in step.adapted()}
    tokens = spread_tokens(step.token_mask, section.contrast_tokens)
    values = []
    for name in aligned_layers(list(inputs), section.kl_layers):
        # A layer that reads something else than one row per token has no rows for the sampled tokens.
        if name not in layers or inputs[name].shape[:2] != step.token_mask.shape:
            continue
        adapter, layer = layers[name]
        rows = inputs[name].flatten(0, 1)[tokens].to(layer.factors(adapter)[0].dtype)
        selected = step.record.gates[name].flatten(0, 1)[tokens] > 0
        outputs = layer.expert_outputs(adapter, rows)
        values.append(expert_contrast(outputs, selected=selected, temperature=section.contrast_temperature))
    return mean(values) if values else None


def _anchor(step: Step) -> Tensor | None:
    routers = [m for m in step.model.modules() if isinstance(m, TopicRouter) and isinstance(m.keys, nn.Parameter)]
    if not routers:
        return None
    return key_anchor([router.keys for router in routers], [router.anchor for router in routers])


def _orthogonal(step: Step) -> Tensor | None:
    values = [orthogonality(*layer.factors(name)) for name, layer in step.adapted()]
    return mean(values) if values else None


def _centre(step: Step) -> Tensor | None:
    values = [
        centre_alignment(router.keys, layer.factors(name)[1])
        for name, layer in step.adapted()
        for owner, router in layer.topiclora_router.items()
        if owner == name and isinstance(router, CosineRouter)
    ]
    return mean(values) if values else None


def _each_router(loss: Callable[[Step, Tensor, Tensor], Tensor]) -> Callable[[Step], Tensor | None]:
    """Mean over routers of a loss of their logits and gates, one by one: layers may differ in their experts."""

    def term(step: Step) -> Tensor | None:
        gates = step.record.gates
        values = [loss(step, logits, gates[name]) for name, logits in step.record.logits.items()]
        return mean(values) if values else None

    return term


_TERMS: Mapping[str, Callable[[Step], Tensor | None]] = {
    "kl": _kl,
    "balance": _each_router(lambda s, logits, gates: switch_balance(logits, gates, mask=s.token_mask)),
    "local_balance": _each_router(
        lambda s, _, gates: local_balance(gates, mask=s.token_mask, types=s.types, delta=s.section.local_balance_delta)
    ),
    "normal": _each_router(lambda s, _, gates: normal_profile(gates, mask=s.token_mask, width=s.section.normal_width)),
    "z": _each_router(lambda s, logits, _: z_loss(logits, mask=s.token_mask)),
    "gjs": _each_router(
        lambda s, logits, _: generalised_js(
            logits, mask=s.token_mask, balance=s.section.gjs_balance, certainty=s.section.gjs_certainty
        )
    ),
    "poisson": _each_router(
        lambda s, logits, _: poisson_profile(logits, mask=s.token_mask, rate=s.section.poisson_rate)
    ),
    "sparsity": _each_router(lambda s, _, gates: sparsity(gates, mask=s.token_mask, target=s.section.sparsity_target)),
    "contrast": _contrast,
    "anchor": _anchor,
    "orthogonal": _orthogonal,
    "centre": _centre,
    "base_balance": lambda s: s.base_balance,
}
