"""Counters of a gateway, as Prometheus reads them (text format 0.0.4)."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)  # seconds
_ESCAPED = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class Counted:
    """Events by their labels."""

    def __init__(self, name: str, meaning: str, *labels: str) -> None:
        self.name, self.meaning, self.labels = name, meaning, labels
        self._counts: Counter[tuple[str, ...]] = Counter({(): 0} if not labels else {})

    def add(self, *values: str) -> None:
        self._counts[values] += 1

    def lines(self) -> Iterator[str]:
        yield from _head(self.name, self.meaning, "counter")
        for values, count in self._counts.items():
            yield f"{self.name}{_labelled(self.labels, values)} {count}"


class Timed:
    """Seconds that something takes, as a histogram."""

    def __init__(self, name: str, meaning: str) -> None:
        self.name, self.meaning = name, meaning
        self._buckets, self._sum = [0] * (len(_BOUNDS) + 1), 0.0

    def add(self, seconds: float) -> None:
        self._buckets[bisect_left(_BOUNDS, seconds)] += 1
        self._sum += seconds

    def lines(self) -> Iterator[str]:
        yield from _head(self.name, self.meaning, "histogram")
        totals = list(accumulate(self._buckets))
        for bound, total in zip((*map(str, _BOUNDS), "+Inf"), totals, strict=True):
            yield f'{self.name}_bucket{{le="{bound}"}} {total}'
        yield f"{self.name}_sum {self._sum:.6f}"
        yield f"{self.name}_count {totals[-1]}"


class Metrics:
    """What a gateway counts."""

    def __init__(self) -> None:
        self.requests = Counted("topiclora_requests_total", "Requests answered.", "path", "status")
        self.routed = Counted("topiclora_routed_total", "Prompts by topic and adapter.", "topic", "adapter")
        self.named = Counted("topiclora_named_total", "Requests that named an adapter themselves.", "adapter")
        self.truncated = Counted("topiclora_truncated_total", "Prompts longer than the text encoder reads.")
        self.gone = Counted("topiclora_disconnected_total", "Clients that left before their answer was complete.")
        self.choosing = Timed("topiclora_choosing_seconds", "From a prompt to its adapter, waiting included.")
        self.upstream = Timed("topiclora_upstream_seconds", "From a request to the head of the upstream's answer.")
        self.in_flight = 0

    def text(self) -> str:
        """All of it."""
        counted = (self.requests, self.routed, self.named, self.truncated, self.gone, self.choosing, self.upstream)
        gauge = [*_head("topiclora_in_flight", "Requests at work.", "gauge"), f"topiclora_in_flight {self.in_flight}"]
        return "\n".join([*(line for each in counted for line in each.lines()), *gauge, ""])


def _head(name: str, meaning: str, kind: str) -> Iterator[str]:
    yield f"# HELP {name} {meaning}"
    yield f"# TYPE {name} {kind}"


def _labelled(labels: Sequence[str], values: Sequence[str]) -> str:
    pairs = ",".join(f'{label}="{value.translate(_ESCAPED)}"' for label, value in zip(labels, values, strict=True))
    return f"{{{pairs}}}" if pairs else ""
