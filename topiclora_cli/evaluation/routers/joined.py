"""Do the experts of both topics take part where a prompt joins two?"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from topiclora_cli.evaluation.routers.drops import mean_change
from topiclora_cli.evaluation.routers.measures import divergence
from topiclora_cli.runs.results.interval import Interval
from topiclora_cli.runs.results.routing import Joined


def joined_routing(
    alone: Mapping[str, Tensor],
    together: Mapping[str, Tensor],
    own: Sequence[int],
    other: Sequence[int],
    priors: Sequence[Tensor] | None = None,
) -> Joined:
    """How n joined prompts are routed beside the N questions alone.

    alone, together: mean gates by module, (N, E) and (n, E). own, other: the places among the questions of the one that
    a joined prompt asks, and of the one before it. priors: of the questions (N, E) and of the joined prompts (n, E).
    """
    one, two = torch.tensor(list(own)), torch.tensor(list(other))
    pairs = [_divergences(gates, alone[name][one], alone[name][two]) for name, gates in together.items()]
    gates = _intervals(torch.stack(pairs).mean(0))
    if priors is None:
        return Joined(gates)
    mine, theirs, joint = priors[0][one], priors[0][two], priors[1]
    routed = {name: each for name, each in together.items() if each.shape[-1] == mine.shape[-1]}
    if not routed:
        return Joined(gates, prior=_intervals(_divergences(joint, mine, theirs)))
    from_prior = torch.stack([_divergences(each, mine, theirs) for each in routed.values()]).mean(0)
    # Where both topics have one expert its gate says nothing of the other topic.
    apart = mine.argmax(1) != theirs.argmax(1)
    expert = theirs.argmax(1, keepdim=True)
    gained = torch.stack([(each - alone[name][one]).gather(1, expert)[:, 0] for name, each in routed.items()]).mean(0)
    return Joined(
        gates,
        gates_from_prior=_intervals(from_prior),
        prior=_intervals(_divergences(joint, mine, theirs)),
        weight=mean_change(gained[apart].double().numpy()) if apart.any() else None,
        apart=int(apart.sum()),
    )


def _divergences(joint: Tensor, mine: Tensor, theirs: Tensor) -> Tensor:
    """Of rows (n, E) from the even mixture of two, and from the first alone: (2, n)."""
    return torch.stack([divergence(joint, (mine + theirs) / 2), divergence(joint, mine)])


def _intervals(divergences: Tensor) -> tuple[Interval, Interval]:
    both, own = divergences.double().numpy()
    return mean_change(both), mean_change(own)
