"""The newest expert of a live mixture: what alone trains, and for which tokens routers choose it.

Its router row is fitted in closed form, on what routers read of the new topic's tokens and of the old ones'. Fisher's
discriminant in units of log-odds (fisher.py) is added to the score that its key gives it: for its own tokens it then
scores higher than the last of the experts that are chosen, and its bias is set such that next to no old token chooses
it. A layer that cannot tell the topics apart, as the first ones cannot by single tokens, leaves the new expert off.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from topiclora_cli.adapters.fisher import Moments, discriminant
from topiclora_cli.adapters.observe import autocast
from topiclora_cli.adapters.prompt import default_prompt
from topiclora_cli.adapters.record import record_routing
from topiclora_cli.adapters.routers import TopicRouter
from topiclora_cli.adapters.topiclora.layer import TopicLoraLayer

# Of the old topics' tokens, those that may choose the new expert in a layer. With 210 routers 0.002, fitted on 410 old
# examples, let in 0.3 % of other old tokens and 74 % of new ones; 0.01, fitted on a hundred, 2.3 % and 86 %.
# The price: of 69 new questions 40.6 % answered instead of 43.5, at 0.47 nats instead of 0.35.
STRAY = 0.002
_ROOM = 0.01  # nats between the first that may not and the threshold: another old token is not exactly like it
_OFF = -1e3  # a bias with which no token chooses it
_SQUARES = 4 * 2**30  # bytes; a router at each linear of an 8B model would have 80 GB of them beside the model
_SILENT = 0.01  # a router that chooses it for fewer of the new tokens leaves it off

Batch = Mapping[str, Tensor]  # input_ids, attention_mask and position_ids (B, S), and prompt_mask (B, S), or none


@dataclass(frozen=True)
class Chosen:
    """The share of old and of new tokens for which routers choose the newest expert, means over routers.

    silent: how many of the routers leave it off.
    """

    old: float
    new: float
    silent: int
    routers: int


class NewestExpert:
    """The last routed expert of an adapter in a model; bfloat16: whether the model computes in that."""

    def __init__(self, model: nn.Module, adapter: str = "default", *, bfloat16: bool = False) -> None:
        self._model, self._adapter, self._bfloat16 = model, adapter, bfloat16
        found = (layer for layer in model.modules() if isinstance(layer, TopicLoraLayer))
        layers = [layer for layer in found if adapter in layer.topiclora_B]
        self._layers = [layer for layer in layers if layer.topiclora_config[adapter].router == "topic"]
        self._routers: dict[str, TopicRouter] = {
            layer.name: layer.topiclora_router[adapter]  # type: ignore[misc]
            for layer in self._layers
            if adapter in layer.topiclora_router
        }

    @contextmanager
    def alone_trains(self) -> Iterator[int]:
        """Within the block nothing trains but the expert, its rows of W and its biases; yields how many numbers.

        Afterwards all else is as it was, to the bit, whatever an optimizer has done to tensors of which it is a part.
        """
        for parameter in self._model.parameters():
            parameter.requires_grad_(False)
        parts = list(self._parts())
        before = [parameter.detach().clone() for parameter, _ in parts]
        handles = []
        for parameter, mask in parts:
            parameter.requires_grad_(True)
            handles.append(parameter.register_hook(lambda gradient, mask=mask: gradient * mask))
        try:
            yield sum(parameter[0].numel() for parameter, _ in parts)
        finally:
            for handle in handles:
                handle.remove()
            with torch.no_grad():
                for (parameter, mask), old in zip(parts, before, strict=True):
                    parameter.copy_(torch.where(mask.bool(), parameter, old))

    @torch.no_grad()
    def fit_router_rows(self, old: Sequence[Batch], new: Sequence[Batch]) -> None:
        """Set the expert's row of every router's W to what tells new tokens from old ones, and its bias by the old.

        Old topics weigh as much as the new one. A row's first token, which sees itself alone, is left out.
        """
        for router in self._routers.values():
            router.bias[-1] = _OFF
        for names in self._groups():
            moments = [self._moments(batches, names) for batches in (old, new)]
            for name in names:
                router = self._routers[name]
                row = discriminant(*(found[name] for found in moments))
                upright = router.first_keys[-1, -1].double() * router.scale
                router.weight[-1] = (row / upright).to(router.weight)
        for name, least in self._thresholds(old).items():
            self._routers[name].bias[-1] -= least

    @torch.no_grad()
    def lower_biases(self, old: Sequence[Batch]) -> None:
        """Lower the expert's bias in every router where more than STRAY of the old tokens choose it."""
        for name, least in self._thresholds(old).items():
            self._routers[name].bias[-1] -= least.clamp_min(0)

    @torch.no_grad()
    def leave_off(self, new: Sequence[Batch]) -> None:
        """Take the expert out of routers that choose it for hardly any of the new tokens: old ones alone would."""
        for name, margin in self._margins(new).items():
            if (margin > 0).float().mean() < _SILENT:
                self._routers[name].bias[-1] = _OFF

    @torch.no_grad()
    def chosen(self, old: Sequence[Batch], new: Sequence[Batch]) -> Chosen:
        """For which share of old and of new tokens routers choose the expert."""
        of_old, of_new = (
            [float((margin > 0).float().mean()) for margin in self._margins(b).values()] for b in (old, new)
        )
        count = len(self._routers)
        return Chosen(sum(of_old) / count, sum(of_new) / count, sum(each < _SILENT for each in of_new), count)

    def _parts(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Each parameter that the expert has a row of, and a mask of that row, (rows, 1 ...)."""
        for layer in self._layers:
            config = layer.topiclora_config[self._adapter]
            factors = [layer.topiclora_B] if config.shared_a else [layer.topiclora_A, layer.topiclora_B]
            parts = [(each, config.num_experts - 1) for held in factors for each in held[self._adapter].parameters()]
            if layer.name in self._routers:
                router = self._routers[layer.name]
                parts += [(each, len(each) - 1) for each in (router.weight, router.bias)]
            for parameter, row in parts:
                mask = torch.zeros(len(parameter), *[1] * (parameter.ndim - 1), device=parameter.device)
                mask[row] = 1
                yield parameter, mask

    def _thresholds(self, batches: Iterable[Batch]) -> dict[str, Tensor]:
        """The margin that all but STRAY of the tokens are below, by router, a little room added."""
        found = {}
        for name, margin in self._margins(batches).items():
            ordered = margin.sort(descending=True).values
            found[name] = ordered[min(int(STRAY * len(ordered)), len(ordered) - 1)] + _ROOM
        return found

    def _margins(self, batches: Iterable[Batch]) -> dict[str, Tensor]:
        """By how much the expert's score exceeds that of the other expert that is chosen last, by router, per token."""
        found: dict[str, list[Tensor]] = {name: [] for name in self._routers}
        for logits, real, _ in self._seen(batches):
            for name, router in self._routers.items():
                scores = logits[name]
                last = scores[..., :-1].topk(router.settings.top_k or 1, dim=-1).values[..., -1]
                found[name].append((scores[..., -1] - last)[real])
        return {name: torch.cat(parts) for name, parts in found.items()}

    def _groups(self) -> Iterator[list[str]]:
        """Routers, in turn, the squares of whose inputs fit into _SQUARES together, or one alone."""
        names: list[str] = []
        size = 0
        for name, router in self._routers.items():
            own = 2 * 4 * router.settings.in_features**2  # of old and of new tokens
            if names and size + own > _SQUARES:
                yield names
                names, size = [], 0
            names.append(name)
            size += own
        if names:
            yield names

    def _moments(self, batches: Iterable[Batch], names: Sequence[str]) -> dict[str, Moments]:
        """What each of these routers reads, in numbers; routers that read the same tensor share them."""
        found = {name: Moments() for name in names}
        for batch in batches:
            _, real, read = next(self._seen([batch], inputs=True))
            prompt = batch.get("prompt_mask", batch["attention_mask"]).to(real.device)
            later = real & (real.long().cumsum(1) > 1)
            same: dict[int, str] = {}
            for name in names:
                router = self._routers[name]
                if (known := same.setdefault(id(read[name]), name)) != name:
                    found[name] = found[known]
                    continue
                x = read[name].reshape(*real.shape, -1).float()
                if router.settings.per_prompt:
                    x = (x * prompt[..., None]).cumsum(1) / prompt.cumsum(1).clamp_min(1)[..., None]
                found[name].add(x[later])
        return found

    def _seen(
        self, batches: Iterable[Batch], *, inputs: bool = False
    ) -> Iterator[tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]]:
        """Of every batch the routers' scores (B, S, E), which tokens are real (B, S), and on request what is read."""
        self._model.eval()
        for batch in batches:
            given = {key: batch[key] for key in ("input_ids", "attention_mask", "position_ids") if key in batch}
            real = given["attention_mask"].bool()
            prompt = default_prompt(batch.get("prompt_mask"), self._model)
            with record_routing(self._model, inputs=inputs) as record, prompt, autocast(self._bfloat16, real.device):
                self._model(**given, use_cache=False)
            record.arrange(real.shape)
            yield record.logits, real, record.inputs
