"""Ratios of times that a drifting machine cannot bend: every round runs each case once.

A case is divided by the anchor's time in the same round, so a slow minute slows both sides. The order changes from
round to round, so no case always follows the same one. A run that takes 1.5 times its case's minimum was held up by
something else (page faults, another process); its pairs are left out, and further rounds make up for them.
"""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

STALL = 1.5
Case = Callable[[], float]  # runs its work once and returns the seconds it took


@dataclass(frozen=True)
class Timing:
    """One case against the anchor: median and quartiles of the ratio over `pairs` undisturbed pairs.

    Zero pairs mean that every round was held up; the ratio is then over all of them, and worth little.
    """

    ratio: float
    low: float
    high: float
    pairs: int
    seconds: float
    runs: list[float]


def timed(work: Callable[[], object], device: torch.device) -> Case:
    """A case that runs `work`, on a GPU until its last kernel is done."""

    def run() -> float:
        synchronize(device)
        start = time.perf_counter()
        work()
        synchronize(device)
        return time.perf_counter() - start

    return run


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interleave(cases: Mapping[str, Case], anchor: str, pairs: int) -> dict[str, Timing]:
    """Run the cases until each has `pairs` undisturbed pairs with the anchor, in at most twice as many rounds."""
    for case in cases.values():
        case()  # warm-up: first pages, optimizer state, kernels chosen by size
    runs: dict[str, list[float]] = {name: [] for name in cases}
    for index in range(2 * pairs):
        _run_round(cases, index, runs)
        if min(len(_clean_ratios(runs[name], runs[anchor])) for name in cases) >= pairs:
            break
    return {name: _summary(runs[name], runs[anchor]) for name in cases}


def _run_round(cases: Mapping[str, Case], index: int, runs: dict[str, list[float]]) -> None:
    turns, first = divmod(index, len(cases))
    order = [*cases][first:] + [*cases][:first]
    gc.collect()
    gc.disable()  # a collection would fall on whichever case happens to trigger it
    try:
        for name in reversed(order) if turns % 2 else order:
            runs[name].append(cases[name]())
    finally:
        gc.enable()


def _clean_ratios(runs: list[float], anchor: list[float]) -> list[float]:
    limit, anchor_limit = STALL * min(runs), STALL * min(anchor)
    return [own / other for own, other in zip(runs, anchor, strict=True) if own < limit and other < anchor_limit]


def _summary(runs: list[float], anchor: list[float]) -> Timing:
    clean = _clean_ratios(runs, anchor)
    every = [own / other for own, other in zip(runs, anchor, strict=True)]
    low, middle, high = torch.tensor(clean or every).quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
    return Timing(middle, low, high, len(clean), statistics.median(runs), runs)
