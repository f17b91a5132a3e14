"""How often a step's micro-batches are put on the device."""

import pytest

from tests.training.cut_steps import one_step
from topiclora_cli.training.trainer import DualLossTrainer


@pytest.mark.parametrize(("term", "times"), [("kl", 2), ("balance", 4)])
def test_counting_a_step_puts_no_micro_batch_on_the_device_and_measuring_it_each_once(term, times, monkeypatch):
    put, prepare = [], DualLossTrainer._prepare_inputs
    monkeypatch.setattr(DualLossTrainer, "_prepare_inputs", lambda self, inputs: put.append(1) or prepare(self, inputs))
    one_step(term, 6, 2)
    assert len(put) == times
