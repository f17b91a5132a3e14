"""What the logged losses say has gone wrong, in plain words: functions of the rows of metrics.jsonl alone."""

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate

Rows = Sequence[Mapping[str, float]]

# Means over so many logged steps are compared: single steps differ by which topics their examples are about. In a long
# run, the newest are so large a part of it.
WINDOW, LATELY = 10, 0.2
# Standard errors of the difference of two such means that are put down to chance: of batches of eight short examples,
# two tens of steps differed by a tenth where nothing had changed, and every step is looked at.
CHANCE = 3.0
# From this part of the run on the KL should have moved; routers of which a probe lost only a tenth of their KL hardly
# learnt, and the adapter was no better than a plain LoRA.
JUDGED_FROM, STILL_ABOVE = 0.3, 0.9
# In windows. A sound run of 40 steps had its KL at 0.91 of the start half way, and at 0.79 in the end.
JUDGED_AFTER = 3
# The KL may waver by a tenth as its weight sinks; beyond that the routers move away from the prior.
RISEN_BY = 1.1
# Where experts have the scale of a LoRA of all their ranks, a sound run's KL rose from 0.5 to 0.7 as its weight sank,
# and fell again. Twice its lowest, the routers have left what they had learnt.
REGAINED = 2.0
# Nats below which routers agree with the prior as well as anybody could ask, and falling is not to be expected.
AGREED = 0.05
# 1.2 effective experts are one with 91 % of the load, and all others together have the rest.
COLLAPSED = 1.2
# From this eta on gates say more of the prior than of the router.
FORCED = 0.5
# Each router leaves some experts of its layer idle: of 8, two of them active, 1.5 to 2.4 in an average router at the
# end of 15 sound runs, 2.7 to 3.5 in 4 without a KL, whose scores were no worse than a plain LoRA's. From half on a
# mixture of half as many would do.
DEAD_SHARE = 0.5


def raised(rows: Rows, total_steps: int) -> dict[str, str]:
    """Alarms by name, each with what is wrong and what may help; `rows` are the logged steps of a run in order."""
    logged = [row for row in rows if "loss" in row]
    if len(logged) < 2 * WINDOW:
        return {}
    progress = logged[-1]["step"] / max(1, total_steps)
    found = {name: judge(logged, progress) for name, judge in _JUDGES.items()}
    return {name: text for name, text in found.items() if text is not None}


def _kl_not_falling(rows: Rows, progress: float) -> str | None:
    values = _values(rows, "loss_kl")
    if progress < JUDGED_FROM or len(values) < JUDGED_AFTER * WINDOW:
        return None
    first, newest = values[:WINDOW], values[-_lately(values) :]
    start, now = _mean(first), _mean(newest)
    if start < AGREED or STILL_ABOVE * start + _error(newest, first) >= now or _exceeds(newest, first, RISEN_BY):
        return None
    return (
        f"The KL has hardly fallen: {start:.3f} at the start, {now:.3f} after {progress:.0%} of the run. The routers "
        "are not learning the prior; raise train.router_learning_rate or loss.kl.weight, or lower train.learning_rate."
    )


def _kl_rising(rows: Rows, _: float) -> str | None:
    values = _values(rows, "loss_kl")
    first, newest = values[:WINDOW], values[-_lately(values) :]
    if len(values) < 2 * WINDOW or not _exceeds(newest, first, RISEN_BY):
        return None
    return (
        f"The KL is rising: {_mean(first):.3f} at the start, {_mean(newest):.3f} now. The routers move away from the "
        "prior; raise loss.kl.weight and loss.kl.floor, or lower train.router_learning_rate."
    )


def _kl_risen_again(rows: Rows, _: float) -> str | None:
    values = _values(rows, "loss_kl")
    length = _lately(values)
    newest = values[-length:]
    if len(values) < 2 * WINDOW or _exceeds(newest, values[:WINDOW], RISEN_BY):
        return None
    sums = [0.0, *accumulate(values)]
    start = min(range(len(values) - length + 1), key=lambda first: sums[first + length] - sums[first])
    lowest = values[start : start + length]
    if _mean(newest) <= 2 * AGREED * REGAINED or not _exceeds(newest, lowest, REGAINED):
        return None
    return (
        f"The KL has risen again: {_mean(lowest):.3f} at its lowest, {_mean(newest):.3f} now. The routers leave the "
        "prior that they had learnt; raise loss.kl.floor, or lower train.router_learning_rate."
    )


def _collapsed(rows: Rows, _: float) -> str | None:
    values = _values(rows, "effective_experts")[-WINDOW:]
    if len(values) < WINDOW or max(values) >= COLLAPSED:
        return None
    found = f"({_mean(values):.2f} effective ones over {WINDOW} logged steps)"
    if _forced(rows[-WINDOW:]):
        return (
            f"The prior sends all examples to one expert {found}, and loss.prior_forcing has the routers follow it. "
            "Lower loss.prior_forcing.start, or build a graph that tells these examples' topics apart."
        )
    return (
        f"The routing has collapsed to one expert {found}. "
        "Raise loss.kl.weight or loss.balance.weight, or lower train.router_learning_rate."
    )


def _dead(rows: Rows, _: float) -> str | None:
    values = _values(rows, "dead_share")[-2 * WINDOW :]
    if len(values) < 2 * WINDOW or min(values) < DEAD_SHARE:
        return None
    found = (
        f"{min(values):.0%} or more of the experts of an average router have had less than 1 % of an even share for "
        f"{2 * WINDOW} logged steps."
    )
    if _forced(rows[-2 * WINDOW :]):
        return (
            f"{found} The prior leaves them out, and loss.prior_forcing has the routers follow it; have fewer experts, "
            "or lower loss.prior_forcing.start."
        )
    return f"{found} They hardly train there; raise loss.balance.weight, or have fewer experts."


_JUDGES = {
    "kl_not_falling": _kl_not_falling,
    "kl_rising": _kl_rising,
    "kl_risen_again": _kl_risen_again,
    "collapsed": _collapsed,
    "dead_experts": _dead,
}


def _forced(rows: Rows) -> bool:
    """Whether the prior has decided these steps' gates more than the routers have."""
    return _mean([row.get("prior_forcing", 0.0) for row in rows]) >= FORCED


def _lately(values: Sequence[float]) -> int:
    """How many values are the newest."""
    return max(WINDOW, round(LATELY * len(values)))


def _exceeds(newest: Sequence[float], before: Sequence[float], factor: float) -> bool:
    """Whether the newest values' mean is above that of others, or AGREED, times a factor, and not by chance."""
    risen = _mean(newest) - _mean(before)
    return _mean(newest) > factor * max(_mean(before), AGREED) and risen > CHANCE * _error(newest, before)


def _error(one: Sequence[float], other: Sequence[float]) -> float:
    """The standard error of the difference of two means."""
    return math.sqrt(sum(_variance(values) / len(values) for values in (one, other)))


def _values(rows: Rows, name: str) -> list[float]:
    return [row[name] for row in rows if name in row]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _variance(values: Sequence[float]) -> float:
    mean = _mean(values)
    return sum((value - mean) ** 2 for value in values) / (len(values) - 1)
