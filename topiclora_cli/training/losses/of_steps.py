"""The terms that are no means of what routers do with tokens: on the prior, on experts' outputs and on weights."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from topiclora_cli.adapters.forcing import refuse_other_experts
from topiclora_cli.adapters.routers import CosineRouter, TopicRouter
from topiclora_cli.training.losses.prior import prior_distance
from topiclora_cli.training.losses.schedule import kl_weight_at
from topiclora_cli.training.losses.specialise import (
    centre_alignment,
    expert_contrast,
    key_anchor,
    orthogonality,
    output_products,
)
from topiclora_cli.training.losses.term import COSINE_ROUTERS, MIXTURE, ROUTERS, TRAINED_KEYS, Term
from topiclora_cli.training.step import Step, aligned_layers, mean, spread_tokens
from topiclora_cli.training.whole_step import WholeStep


def _kl(step: Step, whole: WholeStep) -> Tensor | None:
    if step.prior is None or not step.pooled:
        return None
    experts = step.prior.shape[-1]
    for name, routing in step.pooled.items():
        refuse_other_experts(experts, name, routing.shape[-1])
    distance = prior_distance(
        torch.stack(list(step.pooled.values())),
        prior=step.prior,
        temperature=step.section.kl.temperature,
        label=step.section.kl.label,
        smoothing=step.section.kl.smoothing,
        direction=step.section.kl.direction,
    )
    if step.section.kl.confidence_weighted and step.confidence is not None:
        distance = distance * step.confidence
    return whole.processes * whole.of_examples(distance)


def _scheduled(step: Step) -> float:
    section = step.section
    return kl_weight_at(step.progress, peak=section.kl.weight, floor=section.kl.floor, warmup=section.kl.warmup)


def _contrast(step: Step, whole: WholeStep) -> Tensor | None:
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
    return whole.processes * whole.of_examples(torch.stack(values).mean(0)) if values else None


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


def _of_weights(value: Callable[[Step], Tensor | None]) -> Callable[[Step, WholeStep], Tensor | None]:
    """The share of a term that no example has a part in: each micro-batch has the same."""

    def share(step: Step, whole: WholeStep) -> Tensor | None:
        found = value(step)
        return None if found is None else found / whole.micro_batches

    return share


OF_STEPS = (
    Term("kl", ROUTERS, share=_kl, weight_at=_scheduled),
    Term("contrast", MIXTURE, share=_contrast, reads_weights=True),
    Term("anchor", TRAINED_KEYS, share=_of_weights(_anchor), reads_weights=True),
    Term("orthogonal", MIXTURE, share=_of_weights(_orthogonal), reads_weights=True),
    Term("centre", COSINE_ROUTERS, share=_of_weights(_centre), reads_weights=True),
)
