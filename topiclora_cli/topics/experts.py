"""Expert vectors, and what makes them good ones.

Each expert is a unit vector in the space of topic vectors; a topic belongs to the experts it points at. Four forces
shape both: linked topics attract (link), experts gather communities of the graph (modularity), share the topics evenly
(balance) and keep apart from each other (separation). A fifth looks at what is asked: prompts of one kind go to one
expert, and each expert gets its share of them (consistency). Losses are plain functions of tensors, so that each can be
checked by hand.

Every loss here is our reconstruction: the TopicLoRA abstract (AAAI 2026) names the aims and gives no equations.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.runs.results.graph import AssignmentReport, SeparationReport
from topiclora_cli.topics.distributions import entropy
from topiclora_cli.topics.sparse import DENSE, degrees, links_among, product, pull

SeparationKind = Literal["margin", "orthogonal", "etf", "none"]


class ExpertHead(nn.Module):
    """Expert vectors C (E, d) of unit length and the soft assignment S (T, E) of topics to them.

    S = softmax over experts of z.c / temperature. Raises TopicLoraError for fewer topics than experts.
    """

    def __init__(self, z: Tensor, num_experts: int, *, temperature: float) -> None:
        """Place the experts on far-apart topics of z (T, d), k-means++ fashion, so that none starts without a topic."""
        super().__init__()
        self.temperature = temperature
        self.raw = nn.Parameter(z[spread_seeds(z, num_experts)].detach().clone())

    @property
    def vectors(self) -> Tensor:
        return F.normalize(self.raw, dim=1)

    def forward(self, z: Tensor) -> Tensor:
        return torch.softmax(z @ self.vectors.T / self.temperature, dim=1)


def spread_seeds(z: Tensor, count: int) -> list[int]:
    """Indices of `count` different rows of z (T, d), drawn far apart (k-means++, Arthur and Vassilvitskii, 2007).

    Draws from the global generator. Raises TopicLoraError when there are fewer rows.
    """
    if count > len(z):
        raise TopicLoraError(f"{count} experts for {len(z)} topics.", "Use at most as many experts as topics.")
    chosen = [int(torch.randint(len(z), ()))]
    while len(chosen) < count:
        distance = torch.cdist(z, z[chosen]).amin(1).square()
        # The floor keeps the draw possible when all rows left coincide with chosen ones.
        distance = distance.clamp_min(1e-12).index_fill(0, torch.tensor(chosen), 0.0)
        chosen.append(int(torch.multinomial(distance, 1)))
    return chosen


def link_loss(*, z: Tensor, weight: Tensor, temperature: float = 0.5, negatives: float = 5.0) -> Tensor:
    """Linked topics should point the same way, unlinked ones apart; z (T, d), weight (T, T), a scalar.

    Mean over links of -ln sigma(z_s.z_t / temperature), plus `negatives` times the mean over non-links of
    -ln(1 - sigma(.)), over 1 + negatives: the expectation of drawing that many non-links per link. With a sparse weight
    the non-links are those among DENSE topics, drawn anew at every call from the global generator.
    """
    if weight.layout is not torch.strided:
        chosen = torch.randperm(len(z))[:DENSE]
        near = z[chosen]
        apart = ~links_among(weight, chosen).fill_diagonal_(True)
        push = (F.softplus(near @ near.T / temperature) * apart).sum() / apart.sum().clamp_min(1)
        return (pull(weight, z, temperature) + negatives * push) / (1 + negatives)
    score = z @ z.T / temperature
    linked = weight > 0
    off_diagonal = ~torch.eye(len(z), dtype=torch.bool)
    attract, repel = -F.logsigmoid(score[linked]), -F.logsigmoid(-score[~linked & off_diagonal])
    # A complete graph has no non-links; the mean of nothing would be NaN.
    return (attract.mean() + negatives * (repel.mean() if repel.numel() else 0.0)) / (1 + negatives)


def modularity_loss(*, assignment: Tensor, weight: Tensor) -> Tensor:
    """Minus the soft modularity of S (T, E) on the graph (T, T), dense or sparse; in [-1, 0.5].

    -(1/2M) Tr(S' (A - k k'/2M) S) with degrees k (Newman, 2006; as a loss in DMoN, Tsitsulin et al., arXiv 2006.16904).
    """
    degree = degrees(weight)
    total = degree.sum()
    inside = (product(weight, assignment) * assignment).sum()
    expected = (degree @ assignment).square().sum() / total
    return -(inside - expected) / total


def balance_loss(*, assignment: Tensor) -> Tensor:
    """(sqrt(E)/T) ||sum over topics of S||_2 - 1 for S (T, E): 0 when shares are even, sqrt(E) - 1 when one has all.

    The collapse regulariser of DMoN (arXiv 2006.16904).
    """
    topics, experts = assignment.shape
    return math.sqrt(experts) / topics * assignment.sum(0).norm() - 1


def consistency_loss(*, assignment: Tensor, topics: Tensor, share: Tensor) -> Tensor:
    """How unsure the expert of each kind of prompt is, plus twice how uneven the experts' load; 0 at best, a scalar.

    With pi_g = topics_g S for kinds g, topics (G, T), of shares (G,): sum_g share_g H(pi_g) + 2 (ln E - H(sum_g share_g
    pi_g)), in units of ln E. Mutual information of kind and expert, as in regularised information maximisation (Gomes,
    Krause and Perona, 2010); the load counts twice, as with equal parts some experts stay without prompts.
    """
    prior = topics @ assignment  # (G, E)
    most = math.log(assignment.shape[1])
    unsure = (share * entropy(prior)).sum() / most
    return unsure + 2 * (1 - entropy(share @ prior) / most)


def affinity(*, assignment: Tensor, weight: Tensor) -> Tensor:
    """How strongly the graph ties two experts' topics, kappa (E, E) in [0, 1]: S'AS over the root of its diagonal."""
    ties = assignment.T @ weight @ assignment
    own = ties.diagonal().clamp_min(1e-12)
    return (ties / torch.sqrt(own[:, None] * own[None, :])).clamp(0, 1)


def separation_loss(
    *, vectors: Tensor, kind: SeparationKind = "margin", kappa: Tensor | None = None, top_cosine: float = 0.3
) -> Tensor:
    """Keep the expert vectors C (E, d, unit rows) apart; a mean over pairs, a scalar.

    margin: max(0, cos - m)^2 with m from -1/(E-1), the simplex bound, for experts of unrelated topics (kappa 0) up to
    `top_cosine` for experts of closely tied topics (kappa 1); kappa (E, E) gets no gradient. orthogonal: cos^2.
    etf: (cos + 1/(E-1))^2, an equiangular simplex (Papyan et al., arXiv 2008.08186). none: 0.
    Raises TopicLoraError for another kind.
    """
    experts = len(vectors)
    above = torch.triu_indices(experts, experts, 1)
    cosine = (vectors @ vectors.T)[above[0], above[1]]  # (E (E - 1) / 2,)
    bound = -1 / (experts - 1)
    if kind == "none":
        return cosine.new_zeros(())
    if kind == "orthogonal":
        return cosine.square().mean()
    if kind == "etf":
        return (cosine - bound).square().mean()
    if kind == "margin":
        tied = torch.zeros_like(cosine) if kappa is None else kappa.detach()[above[0], above[1]]
        return (cosine - (bound + (top_cosine - bound) * tied)).clamp_min(0).square().mean()
    raise TopicLoraError(f"Unknown separation '{kind}'.", "Use margin, orthogonal, etf or none.")


def separation_report(vectors: Tensor) -> SeparationReport:
    """Measure how far apart the rows of C (E, d) are; the bound is arccos(-1/(E-1))."""
    unit = F.normalize(vectors.double(), dim=1)
    above = torch.triu_indices(len(unit), len(unit), 1)
    cosine = (unit @ unit.T)[above[0], above[1]].clamp(-1, 1)
    low, mean, high = (float(v) for v in (cosine.min(), cosine.mean(), cosine.max()))
    degrees = math.degrees(math.acos(high)), math.degrees(math.acos(-1 / (len(unit) - 1)))
    return SeparationReport(low, mean, high, *degrees)


def assignment_report(assignment: Tensor, weight: Tensor) -> AssignmentReport:
    """Summarise S (T, E) on the graph (T, T), dense or sparse; entropy is in units of ln E.

    Modularity is that of the arg-max partition.
    """
    experts = assignment.shape[1]
    owner = assignment.argmax(1)
    hard = F.one_hot(owner, experts).to(weight.dtype)
    unsure = entropy(assignment).mean() / math.log(experts)
    return AssignmentReport(
        tuple(hard.sum(0).int().tolist()),
        float(unsure),
        -float(modularity_loss(assignment=hard, weight=weight)),
        tuple((degrees(weight) == 0).nonzero().flatten().tolist()),
    )
