"""The most memory of a stage is its own, whatever the process held before, and that of the stages within it."""

import sys

import pytest

from topiclora_cli.runs import machine
from topiclora_cli.runs.machine import watched_peak
from topiclora_cli.runs.results.record import PeakMemory

LARGE = 200 * 2**20


def hold():
    block = bytearray(LARGE)
    block[::4096] = b"x" * len(block[::4096])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems do not forget a peak")
def test_a_stage_does_not_inherit_the_peak_of_the_one_before():
    with watched_peak() as around:
        with watched_peak() as first:
            hold()
            before = first().resident_gib
        with watched_peak() as second:
            after = second().resident_gib
        whole = around().resident_gib
    assert before - after > 0.15
    assert whole == before


def test_a_system_that_cannot_begin_anew_still_says_what_it_knows(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "_PEAKS", tmp_path / "no" / "such")
    with watched_peak() as peak:
        assert peak().resident_gib > 0
    assert machine._WATCHED == []


def test_an_accelerator_begins_anew_too(monkeypatch):
    class Cuda:
        held = 4 * machine.GIB

        def max_memory_allocated(self):
            return self.held

        def reset_peak_memory_stats(self):
            self.held = machine.GIB

    monkeypatch.setattr(machine, "_cuda", lambda cuda=Cuda(): cuda)  # noqa: B008
    with watched_peak() as around:
        machine._cuda().held = 3 * machine.GIB
        with watched_peak() as inner:
            assert inner().accelerator_gib == 1
        assert around().accelerator_gib == 3
    assert isinstance(around(), PeakMemory)
