"""What the logged losses say has gone wrong, in plain words: functions of the rows of metrics.jsonl alone."""

from collections.abc import Mapping, Sequence
from typing import Any

Rows = Sequence[Mapping[str, Any]]

# Means over so many logged steps are compared: single steps differ by which topics their examples are about.
WINDOW = 10
# From this part of the run on the KL should have moved; routers of which a probe lost only a tenth of their KL hardly
# learnt, and the adapter was no better than a plain LoRA.
JUDGED_FROM, STILL_ABOVE = 0.3, 0.9
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
# Some of hundreds of experts are always idle; one in every router is a part of the adapter that was paid for in vain.
DEAD_PER_ROUTER = 1.0


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
    if progress < JUDGED_FROM or len(values) < 2 * WINDOW:
        return None
    start, now = _mean(values[:WINDOW]), _mean(values[-WINDOW:])
    if start < AGREED or not STILL_ABOVE * start < now <= RISEN_BY * start:
        return None
    return (
        f"The KL has hardly fallen: {start:.3f} at the start, {now:.3f} after {progress:.0%} of the run. "
        "The routers are not learning the prior; raise train.router_learning_rate or loss.kl_weight."
    )


def _kl_rising(rows: Rows, _: float) -> str | None:
    values = _values(rows, "loss_kl")
    if len(values) < 2 * WINDOW:
        return None
    start, now = _mean(values[:WINDOW]), _mean(values[-WINDOW:])
    if max(start, AGREED) * RISEN_BY >= now:
        return None
    return (
        f"The KL is rising: {start:.3f} at the start, {now:.3f} now. The routers move away from the prior; raise "
        "loss.kl_weight and loss.kl_floor, or lower train.router_learning_rate."
    )


def _kl_risen_again(rows: Rows, _: float) -> str | None:
    values = _values(rows, "loss_kl")
    if len(values) < 2 * WINDOW or _kl_rising(rows, _) is not None:
        return None
    lowest = min(_mean(values[end - WINDOW : end]) for end in range(WINDOW, len(values) + 1))
    now = _mean(values[-WINDOW:])
    if max(lowest, 2 * AGREED) * REGAINED >= now:
        return None
    return (
        f"The KL has risen again: {lowest:.3f} at its lowest, {now:.3f} now. The routers leave the prior that they had "
        "learnt; raise loss.kl_floor, or lower train.router_learning_rate."
    )


def _collapsed(rows: Rows, _: float) -> str | None:
    values = _values(rows, "effective_experts")[-WINDOW:]
    if len(values) < WINDOW or max(values) >= COLLAPSED:
        return None
    found = f"({_mean(values):.2f} effective ones over {WINDOW} logged steps)"
    if _forced(rows[-WINDOW:]):
        return (
            f"The prior sends all examples to one expert {found}, and loss.prior_forcing has the routers follow it. "
            "Lower loss.prior_forcing, or build a graph that tells these examples' topics apart."
        )
    return (
        f"The routing has collapsed to one expert {found}. "
        "Raise loss.kl_weight or loss.balance_weight, or lower train.router_learning_rate."
    )


def _dead(rows: Rows, _: float) -> str | None:
    values = _values(rows, "dead_experts")[-2 * WINDOW :]
    if len(values) < 2 * WINDOW or min(values) < DEAD_PER_ROUTER:
        return None
    found = (
        f"{min(values):.1f} experts or more of an average router have had less than 1 % of an even share for "
        f"{2 * WINDOW} logged steps."
    )
    if _forced(rows[-2 * WINDOW :]):
        return (
            f"{found} The prior leaves them out, and loss.prior_forcing has the routers follow it; have fewer experts, "
            "or lower loss.prior_forcing."
        )
    return f"{found} They are not trained; raise loss.balance_weight, or have fewer experts."


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


def _values(rows: Rows, name: str) -> list[float]:
    return [row[name] for row in rows if name in row]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
