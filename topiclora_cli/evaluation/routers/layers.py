"""The measures of every layer of a model, and of all of them as one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, mode

import torch
from torch import Tensor

from topiclora_cli.adapters.topiclora.scope import layer_index
from topiclora_cli.evaluation.routers.measures import agreement, by_layer, loads, membership, shared_information
from topiclora_cli.evaluation.routers.observed import Observed
from topiclora_cli.evaluation.routers.redundancy import Alike
from topiclora_cli.runs.results.routing import LayerRouting

Matrix = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Layers:
    """Measures by layer and over all; use: layer -> topic -> mean gates (E,); by_topic: the same over all layers.

    alike: by module. cosine, cka: means over the modules of the usual number of experts (E, E).
    """

    experts: int
    layers: Sequence[LayerRouting]
    together: LayerRouting
    use: Mapping[int | None, Mapping[str, Sequence[float]]]
    by_topic: Mapping[str, Sequence[float]]
    alike: Mapping[str, Alike]
    cosine: Matrix
    cka: Matrix


def measure_layers(
    observed: Observed, alike: Mapping[str, Alike], topics: Sequence[Sequence[str]], prior: Tensor | None
) -> Layers:
    """Measures of what was observed of examples with these topics; prior (N, E) of the same examples, where known."""
    grouped = by_layer(observed, {name: layer_index(name) for name in observed.gates})
    usual = mode(gates.shape[-1] for gates in observed.gates.values())
    everywhere = [name for name, gates in observed.gates.items() if gates.shape[-1] == usual]
    names, parts = membership(topics)

    def measured(layer: int | None, modules: Sequence[str]) -> LayerRouting:
        return _layer(layer, modules, observed, alike, parts, prior)

    use = {layer: _use(names, parts, _mean(observed, modules)) for layer, modules in grouped.items()}
    pairs = [alike[name] for name in everywhere if name in alike]
    return Layers(
        experts=usual,
        layers=[measured(layer, modules) for layer, modules in grouped.items()],
        together=measured(None, everywhere),
        use=use,
        by_topic=_use(names, parts, _mean(observed, everywhere)),
        alike=alike,
        cosine=torch.stack([each.cosine for each in pairs]).mean(0).tolist() if pairs else [],
        cka=torch.stack([each.cka for each in pairs]).mean(0).tolist() if pairs else [],
    )


def _layer(
    layer: int | None,
    modules: Sequence[str],
    observed: Observed,
    alike: Mapping[str, Alike],
    parts: Tensor,
    prior: Tensor | None,
) -> LayerRouting:
    mean = _mean(observed, modules)
    effective, variation, largest = loads([observed.gates[name] for name in modules])
    shared = shared_information(parts, mean)
    known = prior is not None and prior.shape == mean.shape
    agrees, far = agreement(mean, prior) if known and prior is not None else (None, None)
    pairs = [alike[name] for name in modules if name in alike]
    return LayerRouting(
        layer=layer,
        experts=mean.shape[-1],
        modules=len(modules),
        token_entropy=fmean(observed.token_entropy[name] for name in modules),
        experts_per_token=fmean(observed.per_token[name] for name in modules),
        effective_experts=effective,
        load_variation=variation,
        largest_load=largest,
        information=shared.found,
        by_chance=shared.by_chance,
        p=shared.p,
        cosine=_over_pairs([each.cosine for each in pairs]),
        cka=_over_pairs([each.cka for each in pairs]),
        agrees=agrees,
        from_prior=far,
        load=mean.mean(0).tolist(),
    )


def _mean(observed: Observed, modules: Sequence[str]) -> Tensor:
    return torch.stack([observed.gates[name] for name in modules]).mean(0)


def _use(names: Sequence[str], parts: Tensor, gates: Tensor) -> dict[str, Sequence[float]]:
    rows = parts @ gates
    rows = rows / rows.sum(-1, keepdim=True).clamp_min(1e-12)
    return dict(zip(names, rows.tolist(), strict=True))


def _over_pairs(matrices: Sequence[Tensor]) -> tuple[float, float] | None:
    """Mean and largest over all pairs of two different experts."""
    if not matrices:
        return None
    values = torch.cat([each[torch.ones_like(each).triu(1).bool()] for each in matrices])
    return float(values.mean()), float(values.max())
