"""How many experts does a topic graph call for? As many as help to foretell ties that were not shown.

The pairs of topics are dealt into folds. For each fold the assignment is learnt without the fold's ties, with few
experts and with many, and read as a stochastic block model: topics of experts a and b are tied with a chance B_ab,
counted on the other folds. How likely that makes the hidden pairs, ties and gaps alike, is what an expert too many does
not raise. Of the numbers that are as good as the best, the smallest is taken; and the smallest of all where none beats
one chance for every pair, as in a graph whose ties are shuffled, though modularity has its peak there, too.

Network cross-validation by pairs is that of Li, Levina and Zhu (Biometrika, 2020), with our assignment in it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch_geometric.data import Data

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.runs.results.graph import Candidate, Choice
from topiclora_cli.topics.experts import assignment_report
from topiclora_cli.topics.graph import adjacency
from topiclora_cli.topics.learn import learn
from topiclora_cli.topics.settings import GraphSettings
from topiclora_cli.topics.sparse import DENSE
from topiclora_cli.topics.validate import SAMPLE, each_once, hide_edges, unlinked_pairs

NUMBERS, FOLDS = (2, 3, 4, 6, 8, 12, 16, 24, 32), 5
# With so many topics that a fit takes seconds.
FEW_NUMBERS, FEW_FOLDS = (2, 4, 8, 16, 32), 3
# Picks what training to the end picks, or one number fewer, in a third of the time (BIG-bench, planted groups).
STEPS = 50
LEAST_CHANCE = 1e-3  # of a tie and of a gap, so that one surprise does not outweigh all pairs


def numbers_to_try(topics: int, *, least: int = 2) -> tuple[int, ...]:
    """Numbers of experts from `least` to half the topics; raises TopicLoraError where there is none."""
    known = NUMBERS if topics <= DENSE else FEW_NUMBERS
    numbers = tuple(number for number in known if least <= number <= topics // 2)
    if not numbers:
        raise TopicLoraError(
            f"adapter.num_experts: auto finds nothing to try from {least} to {topics // 2}, half of the topics.",
            "Give a number of experts, lower adapter.top_k, or have more topics.",
        )
    return numbers


def folds(topics: int) -> int:
    """How many fits each number of experts takes."""
    return FOLDS if topics <= DENSE else FEW_FOLDS


def choose_experts(
    data: Data,
    numbers: Sequence[int],
    settings: GraphSettings,
    *,
    on_fit: Callable[[int], None] = lambda _: None,
) -> Choice:
    """Try the numbers of experts on a topic graph, learnt with `settings` otherwise, and take one by `decide`.

    Fits end after STEPS at the latest. What topics share in tasks or prompts is kept from them, as it would tell.
    `on_fit(1)` is called after each of len(numbers) x folds(T) fits. The caller's random state stays. Raises
    TopicLoraError for too few ties to hide any.
    """
    assert data.x is not None
    assert data.edge_index is not None
    count = len(data.x)
    edges, weights = each_once(data.edge_index, data.edge_weight)
    generator = torch.Generator().manual_seed(settings.seed)
    gaps = unlinked_pairs(edges, count, generator)
    gaps = gaps[:, torch.randperm(gaps.shape[1], generator=generator)[:SAMPLE]]
    parts = folds(count)
    if min(edges.shape[1], gaps.shape[1]) < parts:
        raise TopicLoraError(
            f"adapter.num_experts: auto has too little to hide in a topic graph of {edges.shape[1]} ties and "
            f"{gaps.shape[1]} unlinked pairs.",
            "Give a number of experts.",
        )
    tie_fold = torch.randperm(edges.shape[1], generator=generator) % parts
    gap_fold = torch.arange(gaps.shape[1]) % parts
    # In a large graph each gap stands for many.
    weigh = (math.comb(count, 2) - edges.shape[1]) / gaps.shape[1]
    whole = adjacency(data.edge_index, data.edge_weight, count)
    candidates = []
    with torch.random.fork_rng(devices=[]):
        for number in numbers:
            short = replace(settings, num_experts=number, steps=min(settings.steps, STEPS))
            found: list[tuple[float, float, int]] = []
            for fold in range(parts):
                shown, hidden = hide_edges(data.x, edges, weights, tie_fold == fold)
                torch.manual_seed(settings.seed + fold)
                _, _, assignment = learn(shown, short)
                seen = edges[:, tie_fold != fold], gaps[:, gap_fold != fold]
                chances = block_chances(assignment, *seen, weigh=weigh)
                held = hidden, gaps[:, gap_fold == fold]
                report = assignment_report(assignment, whole)
                found.append((likelihood(assignment, chances, *held, weigh=weigh), report.modularity, len(report.dead)))
                on_fit(1)
            candidates.append(_candidate(number, found))
    density = edges.shape[1] / math.comb(count, 2)
    return decide(candidates, chance=density * math.log(density) + (1 - density) * math.log(1 - density))


def block_chances(assignment: Tensor, ties: Tensor, gaps: Tensor, *, weigh: float = 1.0) -> Tensor:
    """Chance (E, E) that topics of two experts are tied, for S (T, E), from tied and other pairs (2, m).

    Each gap counts `weigh` times. One pair more, tied as often as any, stands behind every chance, as some experts have
    next to none between them.
    """
    tied, apart = _meetings(assignment, ties), weigh * _meetings(assignment, gaps)
    usual = ties.shape[1] / (ties.shape[1] + weigh * gaps.shape[1])
    return (tied + usual) / (tied + apart + 1)


def likelihood(assignment: Tensor, chances: Tensor, ties: Tensor, gaps: Tensor, *, weigh: float = 1.0) -> float:
    """Mean log-likelihood of tied and other pairs (2, m), where P(tie of s, t) = S_s B S_t'."""
    sums = 0.0
    for pairs, sign, each in ((ties, 1, 1.0), (gaps, -1, weigh)):
        tie = ((assignment[pairs[0]] @ chances) * assignment[pairs[1]]).sum(1)
        chance = tie if sign > 0 else 1 - tie
        sums += each * float(chance.clamp(LEAST_CHANCE, 1 - LEAST_CHANCE).log().sum())
    return sums / (ties.shape[1] + weigh * gaps.shape[1])


def decide(candidates: Sequence[Candidate], *, chance: float) -> Choice:
    """The fewest experts within one standard error of the best likelihood (Breiman et al., CART, 1984).

    Only numbers that leave the fewest experts without a topic, none if possible, are in question. One expert, which
    foretells by `chance` alone, is compared, too; as it leaves nothing to route, the fewest that do take its place.
    """
    living = [c for c in candidates if c.dead == min(other.dead for other in candidates)]
    best = max(living, key=lambda c: c.likelihood)
    least = best.likelihood - best.error
    good = [c for c in living if c.likelihood >= least or chance >= least]
    taken = min(good, key=lambda c: c.experts)
    return Choice(taken.experts, _reason(taken, best, candidates, chance), chance, tuple(candidates))


def _reason(taken: Candidate, best: Candidate, candidates: Sequence[Candidate], chance: float) -> str:
    tried = ", ".join(str(c.experts) for c in candidates)
    modular = max(candidates, key=lambda c: c.modularity).experts
    if chance >= best.likelihood - best.error:
        how = f"are the fewest, as none foretell hidden ties better than chance ({best.likelihood:.3f} at best against "
        how += f"{chance:.3f} in log-likelihood per pair)"
    elif taken is best:
        how = f"foretell hidden ties best (log-likelihood {best.likelihood:.3f} ± {best.error:.3f} per pair, "
        how += f"chance {chance:.3f})"
    else:
        how = f"foretell hidden ties as well as the best number, {best.experts}, within its standard error "
        how += f"(log-likelihood {taken.likelihood:.3f} against {best.likelihood:.3f} ± {best.error:.3f} per pair, "
        how += f"chance {chance:.3f})"
    left = f"leaving {taken.dead} without a topic" if taken.dead else "leaving none without a topic"
    return f"{taken.experts} experts {how}, {left}; of {tried} tried, modularity peaks at {modular}."


def _meetings(assignment: Tensor, pairs: Tensor) -> Tensor:
    """How much of the pairs (2, m), either way round, lies between two experts (E, E)."""
    one = assignment[pairs[0]].T @ assignment[pairs[1]]
    return one + one.T


def _candidate(number: int, found: Sequence[tuple[float, float, int]]) -> Candidate:
    values = torch.tensor([value for value, _, _ in found], dtype=torch.float64)
    return Candidate(
        experts=number,
        likelihood=float(values.mean()),
        error=float(values.std() / math.sqrt(len(values))),
        modularity=sum(modularity for _, modularity, _ in found) / len(found),
        dead=max(dead for _, _, dead in found),
    )
