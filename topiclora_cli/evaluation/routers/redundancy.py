"""How much one expert of a layer repeats another: in its weights, and in what it says of real inputs.

Neither needs a product of the layer's size. For weights, <B_e A_e, B_f A_f> = sum of (A_e A_f^T) * (B_e^T B_f), r by r.
For outputs Y_e = X A_e^T B_e^T of centred inputs, linear CKA (Kornblith et al. 2019, arXiv 1905.00414) is
|Y_e^T Y_f|^2 / (|Y_e^T Y_e| |Y_f^T Y_f|), and |Y_e^T Y_f|^2 = tr(G_e C_ef G_f C_ef^T) with G_e = B_e^T B_e and C_ef the
covariance of A_e x and A_f x.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from topiclora_cli.adapters.tuner import RoutedTunerLayer
from topiclora_cli.evaluation.routers.observed import gates_of


@dataclass(frozen=True)
class Alike:
    """Of a module's E experts: cosine of weights and CKA of outputs, (E, E) each; CKA over so many tokens."""

    cosine: Tensor
    cka: Tensor
    tokens: int


class _Covariance:
    """Sums over tokens of what the experts' second factors read, h (n, E r)."""

    def __init__(self) -> None:
        self.count, self.first, self.second = 0, torch.zeros(()), torch.zeros(())

    def add(self, hidden: Tensor) -> None:
        hidden = hidden.double()
        self.count += len(hidden)
        self.first = self.first + hidden.sum(0).cpu()
        self.second = self.second + (hidden.T @ hidden).cpu()

    def centred(self) -> Tensor:
        return self.second - torch.outer(self.first, self.first) / max(1, self.count)


@torch.inference_mode()
def redundancy(
    model: nn.Module, batches: Iterable[Mapping[str, Tensor]], *, bfloat16: bool = False
) -> dict[str, Alike]:
    """By adapted module with a choice; outputs are those of every expert on each of the batches' masked tokens."""
    layers = {layer.name: (layer, adapter) for layer, adapter in _choosing(model)}
    sums = {name: _Covariance() for name in layers}
    for batch in batches:
        inputs: dict[str, Tensor] = {}
        gates_of(model, batch, bfloat16=bfloat16, inputs=inputs)
        kept = batch["token_mask"].bool().flatten()
        for name, x in inputs.items():
            if name not in layers:
                continue
            layer, adapter = layers[name]
            rows = x.reshape(-1, x.shape[-1])
            # Behind experts mixed in the block's interior there is a row for every chosen one.
            rows = rows[kept] if len(rows) == len(kept) else rows
            hidden = layer.expert_hidden(adapter, rows)
            experts = layer.describe(adapter).experts
            sums[name].add(hidden.expand(-1, experts, -1).flatten(1))
    return {
        name: Alike(cosines(*layer.routed_factors(adapter)), _cka(layer, adapter, sums[name]), sums[name].count)
        for name, (layer, adapter) in layers.items()
        if sums[name].count
    }


def cosines(lora_a: Tensor, lora_b: Tensor) -> Tensor:
    """Cosines (E, E) of the matrices B_e A_e, for A (E or 1, r, d_in) and B (E, r, d_out); 0 with one that is zero."""
    experts, rank = lora_b.shape[:2]
    a = lora_a.detach().double().cpu().expand(experts, -1, -1)
    b = lora_b.detach().double().cpu()
    products = (_gram(a) * _gram(b)).view(experts, rank, experts, rank).sum((1, 3))
    return _normalised(products)


def _cka(layer: RoutedTunerLayer, adapter: str, sums: _Covariance) -> Tensor:
    lora_b = layer.routed_factors(adapter)[1].detach().double().cpu()
    experts, rank = lora_b.shape[:2]
    covariance = sums.centred().view(experts, rank, experts, rank).transpose(1, 2)  # (E, E, r, r)
    own = lora_b @ lora_b.transpose(1, 2)  # (E, r, r)
    similar = torch.einsum("eij,efjk,fkl,efil->ef", own, covariance, own, covariance)
    return _normalised(similar)


def _gram(factor: Tensor) -> Tensor:
    flat = factor.flatten(0, 1)
    return flat @ flat.T


def _normalised(products: Tensor) -> Tensor:
    scale = products.diagonal().clamp_min(0).sqrt()
    return (products / (scale[:, None] * scale).clamp_min(1e-300)).clamp(-1, 1).float()


def _choosing(model: nn.Module) -> list[tuple[RoutedTunerLayer, str]]:
    return [
        (layer, adapter)
        for layer in model.modules()
        if isinstance(layer, RoutedTunerLayer)
        for adapter in layer.active_adapters
        if adapter in getattr(layer, layer.second_factors) and layer.describe(adapter).experts > 1
    ]
