"""How much the topic prior weighs in the course of training: in the loss, and in the gates themselves."""

import math


def kl_weight_at(progress: float, *, peak: float, floor: float, warmup: float) -> float:
    """lambda at a fraction of training: linear warm-up from 0 to `peak`, then cosine to `floor`."""
    if progress < warmup:
        return peak * progress / warmup
    remaining = (progress - warmup) / max(1e-12, 1.0 - warmup)
    floor = min(floor, peak)
    return floor + (peak - floor) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, remaining)))


def prior_forcing_at(progress: float, *, start: float, until: float) -> float:
    """eta at a fraction of training: `start` falling linearly to 0 at `until`."""
    return start * max(0.0, 1.0 - progress / until)
