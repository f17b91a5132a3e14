"""The bench's results as lines of a table on the terminal, and as JSON with every single time."""

from dataclasses import dataclass, field

from rich.box import SIMPLE
from rich.table import Table

from tests.bench.timing import Timing

TIME_COLUMNS = ("time", "quartiles", "pairs", "bar", "seconds")
SAVED_COLUMNS = ("saved", "bar", "MiB")


@dataclass(frozen=True)
class Bar:
    """What a ratio has to reach: at most `limit`, or at least."""

    limit: float
    at_least: bool = False

    def met(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit

    def judged(self, value: float) -> str:
        sign, colour = ("✓", "green") if self.met(value) else ("✗", "red")
        return f"[{colour}]{'≥' if self.at_least else '≤'} {self.limit:.2f} {sign}[/]"


@dataclass(frozen=True)
class Line:
    """One case: its time and, where metered, the bytes it saves, each over the anchor's."""

    setting: str
    case: str
    timing: Timing
    time_bar: Bar | None = None
    saved: int | None = None
    saved_ratio: float | None = None
    saved_bar: Bar | None = None


@dataclass(frozen=True)
class Suite:
    """One question and its answer: every ratio is to the case called `anchor`, in the same setting."""

    name: str
    anchor: str
    lines: list[Line] = field(default_factory=list)
    note: str = ""

    def table(self) -> Table:
        metered = any(line.saved is not None for line in self.lines)
        title = f"{self.name}: ratios to {self.anchor}"
        table = Table(title=title, title_justify="left", caption=self.note, caption_justify="left", box=SIMPLE)
        table.add_column("", no_wrap=True)
        table.add_column("case")
        for heading in (*TIME_COLUMNS, *(SAVED_COLUMNS if metered else ())):
            table.add_column(heading, justify="right", no_wrap=True)
        for line, following in zip(self.lines, [*self.lines[1:], None], strict=True):
            last = following is None or following.setting != line.setting
            cells = (*_time(line), *(_saved(line) if metered else ()))
            table.add_row(line.setting, line.case, *cells, end_section=last)
        return table


def _time(line: Line) -> list[str]:
    timing = line.timing
    return [
        f"{timing.ratio:.3f}",
        f"{timing.low:.3f}–{timing.high:.3f}",
        str(timing.pairs),
        line.time_bar.judged(timing.ratio) if line.time_bar else "",
        f"{timing.seconds:.4f}",
    ]


def _saved(line: Line) -> list[str]:
    if line.saved is None or line.saved_ratio is None:
        return ["", "", ""]
    bar = line.saved_bar.judged(line.saved_ratio) if line.saved_bar else ""
    return [f"{line.saved_ratio:.3f}", bar, f"{line.saved / 2**20:.0f}"]
