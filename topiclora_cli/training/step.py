"""One micro-batch after its forward pass: what the routers did, and what the losses hold against it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from topiclora_cli.adapters.record import RoutingRecord
from topiclora_cli.adapters.topiclora import TopicLoraLayer
from topiclora_cli.adapters.topiclora.scope import layer_index
from topiclora_cli.recipe.loss import LossSection
from topiclora_cli.training.losses import (
    normalised_entropy,
    pooled_probabilities,
    prior_forcing_at,
    sample_types,
)


@dataclass(frozen=True)
class Step:
    """All that the auxiliary losses of a micro-batch are functions of.

    token_mask and prompt_mask (B, S); prior (B, E) and confidence
    (B,), or None where there is no topic graph; progress is the fraction of training that is done; base_logits (B, S,
    n) are those of the base model's own routers, of which base_top_k experts are active, where they were asked for.
    """

    record: RoutingRecord
    model: nn.Module
    section: LossSection
    progress: float
    token_mask: Tensor
    prompt_mask: Tensor
    prior: Tensor | None = None
    confidence: Tensor | None = None
    base_logits: tuple[Tensor, ...] = ()
    base_top_k: int = 0

    @cached_property
    def pooled(self) -> dict[str, Tensor]:
        """Mean routing (B, E) over the tokens that the KL is about, of the routers whose layers are aligned."""
        logits = self.record.logits
        mask = aligned_tokens(self.prompt_mask, self.token_mask, self.section.kl.tokens)
        return {
            name: pooled_probabilities(logits[name], mask=mask)
            for name in aligned_layers(list(logits), self.section.kl.layers)
        }

    @cached_property
    def types(self) -> Tensor | None:
        """Which half of the experts each example belongs to, by its prior."""
        return None if self.prior is None else sample_types(self.prior)

    @cached_property
    def routing_entropy(self) -> Tensor:
        """Normalised entropy of the pooled routing (B,), a mean over layers."""
        return torch.stack([normalised_entropy(routing.detach()) for routing in self.pooled.values()]).mean(0)

    def adapted(self) -> Iterator[tuple[str, TopicLoraLayer]]:
        """Layers with an active adapter, each with the adapter's name."""
        for module in self.model.modules():
            if isinstance(module, TopicLoraLayer):
                yield from ((name, module) for name in module.active_adapters if name in module.topiclora_B)


def aligned_layers(names: list[str], which: str) -> list[str]:
    """The adapted linears whose routing the prior shapes: all, or those in the upper half of the model's layers."""
    if which == "all":
        return names
    numbers = {name: number for name in names if (number := layer_index(name)) is not None}
    if not numbers:
        return names
    first, last = min(numbers.values()), max(numbers.values())
    middle = min((first + last + 1) / 2, last)  # a single layer is its own upper half
    return [name for name in names if numbers.get(name, middle) >= middle]


def aligned_tokens(prompt_mask: Tensor, token_mask: Tensor, which: str) -> Tensor:
    """The tokens (B, S) whose mean routing is held against the prior: those of the prompt, or all of the example."""
    return prompt_mask if which == "prompt" else token_mask


def prior_forcing(section: LossSection, progress: float) -> float:
    """eta, how much the prior forces the routers when this part of training is done."""
    return prior_forcing_at(progress, start=section.prior_forcing.start, until=section.prior_forcing.until)


def spread_tokens(mask: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Places (B, count) of real tokens at even distances in each example of a mask (B, S), and which of them count.

    Of an example with fewer tokens all count, and the rest of its places do not.
    """
    real = mask.bool()
    lengths = real.sum(1, keepdim=True)
    taken = lengths.clamp_max(count)
    number = torch.arange(count, device=mask.device).expand(len(mask), -1)
    rank = torch.where(number < taken, number * lengths // taken.clamp_min(1), torch.zeros_like(number))
    places = (~real).to(torch.int8).argsort(stable=True, dim=1)  # the real ones first, in their order
    return places.gather(1, rank), number < taken


def mean(values: Iterable[Tensor]) -> Tensor:
    """Mean of scalars, one per layer or router."""
    return torch.stack(list(values)).mean()
