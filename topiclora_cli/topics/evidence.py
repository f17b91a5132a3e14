"""Which topics come up together in what the model will be asked, as the experts' share of work depends on it.

Topics are not asked about equally: of BIG-bench's tasks a third carry common sense or logical reasoning. Experts that
share the *topics* evenly do not share the *prompts* evenly. So, where tagged prompts are at hand, the assignment is
also judged by kinds of prompts, those that carry the same topics: each kind should go to one expert, and experts should
have equal shares of the prompts.

What a tagged prompt's topics are is not read off its tags but guessed, as the prior will guess, by a projector that was
not fitted to it: an expert border that the projector cannot see would send prompts of one kind both ways.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from topiclora_cli.topics.distributions import mutual_information
from topiclora_cli.topics.projector import TrainingPairs, fit_projector, scores

FOLDS = 5
MOST_KINDS = 2048  # that the loss looks at in every step
TEMPERATURES = (0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5)


@dataclass(frozen=True)
class Evidence:
    """Topics of n prompts (n, T), rows sum to 1, and which kind each is of (n,), from 0.

    temperature: of the softmax that made guessed scores into these shares.
    """

    topics: Tensor
    kind: Tensor
    temperature: float

    @property
    def kinds(self) -> tuple[Tensor, Tensor]:
        """Mean topics of each kind (G, T) and its share of the whole (G,); of the MOST_KINDS largest."""
        count = torch.bincount(self.kind).float()
        total = torch.zeros(len(count), self.topics.shape[1]).index_add(0, self.kind, self.topics)
        largest = count.argsort(descending=True, stable=True)[:MOST_KINDS]
        count, total = count[largest], total[largest]
        return total / count[:, None], count / count.sum()


def gather_evidence(pairs: TrainingPairs) -> Evidence | None:
    """What tagged prompts say, None without any.

    Tasks by their tags alone would be no substitute: on BIG-bench they made experts' shares of the prompts no more even
    and cost modularity.
    """
    if not pairs.prompts:
        return None
    guessed = guesses(pairs)
    temperature = best_temperature(guessed, pairs.prompt_targets)
    return Evidence(
        torch.softmax(guessed / temperature, dim=1),
        kinds_of(pairs.topics[: pairs.prompts]),
        temperature,
    )


def guesses(pairs: TrainingPairs, *, nearness: Tensor | None = None) -> Tensor:
    """Scores (n, T) of the n tagged prompts, each by a projector that was fitted without its fold of FOLDS."""
    out = torch.zeros(pairs.prompts, pairs.num_topics)
    for number in range(min(FOLDS, pairs.prompts)):
        rows = torch.arange(number, pairs.prompts, FOLDS)
        projector = fit_projector(pairs.without(rows), nearness=nearness)
        out[rows] = scores(projector, pairs.x[rows])
    return out


def best_temperature(guessed: Tensor, targets: Tensor) -> float:
    """The softmax temperature that brings guessed scores (n, T) closest to the tags (n, T), in cross-entropy.

    After temperature scaling (Guo et al., arXiv 1706.04599).
    """
    wanted = targets / targets.sum(1, keepdim=True)
    misfit = [
        float(-(wanted * torch.log_softmax(guessed / temperature, dim=1)).sum(1).mean()) for temperature in TEMPERATURES
    ]
    return TEMPERATURES[misfit.index(min(misfit))]


def kinds_of(topics: Sequence[tuple[int, ...]]) -> Tensor:
    """Number, from 0, of each text's set of topics, in order of first appearance (n,)."""
    seen: dict[tuple[int, ...], int] = {}
    return torch.tensor([seen.setdefault(found, len(seen)) for found in topics], dtype=torch.long)


def information(experts: Sequence[int] | Tensor, kind: Tensor, num_experts: int) -> float:
    """Mutual information of a prompt's kind (n,) and its expert (n,), in units of ln E: 1 where each kind has its own.

    Every kind weighs the same.
    """
    table = torch.zeros(int(kind.max()) + 1, num_experts, dtype=torch.float64)
    table.index_put_((kind, torch.as_tensor(experts)), torch.ones(len(kind), dtype=torch.float64), accumulate=True)
    return mutual_information(table / table.sum(1, keepdim=True)) / math.log(num_experts)
