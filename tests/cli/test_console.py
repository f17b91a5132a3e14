"""What a bar says where nobody watches."""

import io

import pytest
from rich.console import Console

from topiclora_cli.cli import console


@pytest.mark.parametrize(
    ("done", "line"), [(0, "train 10/100  0.50/s  180 s left  lm 1"), (60, "train 70/100  0.50/s  60 s left  lm 1")]
)
def test_rate_and_time_left_are_of_this_process_s_steps(done, line, monkeypatch):
    clock = iter([100.0, 120.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    written = io.StringIO()
    with console.TerminalProgress(Console(file=written)).track("train", 100, done) as advance:
        advance(10, "lm 1")
    assert written.getvalue() == line + "\n"


def test_a_drawn_bar_starts_where_the_last_process_stopped():
    written = io.StringIO()
    with console.TerminalProgress(Console(file=written, force_terminal=True)).track("train", 100, 60) as advance:
        advance(10, "lm 1")
    assert "70/100" in written.getvalue()
