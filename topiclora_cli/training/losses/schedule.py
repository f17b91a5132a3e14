"""How much the topic prior weighs in the course of training."""

import math


def kl_weight_at(progress: float, *, peak: float, floor: float, warmup: float) -> float:
    """lambda at a fraction of training: linear warm-up from 0 to `peak`, then cosine to `floor`."""
    if progress < warmup:
        return peak * progress / warmup
    remaining = (progress - warmup) / max(1e-12, 1.0 - warmup)
    floor = min(floor, peak)
    return floor + (peak - floor) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, remaining)))
