"""What is logged of each step beside the losses, on hand-made routing and through the trainer."""

import json
import math

import pytest
import torch
from accelerate import Accelerator

from tests.training.test_resume import rows
from topiclora_cli.adapters.record import RoutingRecord
from topiclora_cli.training.meter import Meter, before_clipping, gradient_norms, routing_readings


def record_of(*gates):
    record = RoutingRecord()
    for index, values in enumerate(gates):
        record.logits[f"router{index}"] = record.gates[f"router{index}"] = torch.tensor(values)[None]
    return record


@pytest.mark.parametrize(
    ("loads", "effective", "largest", "dead"),
    [
        ([[0.25, 0.25, 0.25, 0.25]], 4.0, 0.25, 0),
        ([[0.5, 0.5, 0.0, 0.0]], 2.0, 0.5, 2),
        ([[1.0, 0.0]], 1.0, 1.0, 1),
        ([[1.0, 0.0], [0.5, 0.5]], 1.5, 1.0, 0.5),
        ([[0.9951, 0.0049]], 1 / (0.9951**2 + 0.0049**2), 0.9951, 1),
        ([[0.9949, 0.0051]], 1 / (0.9949**2 + 0.0051**2), 0.9949, 0),
    ],
)
def test_routing_readings(loads, effective, largest, dead):
    shares = {str(n): torch.tensor(load) for n, load in enumerate(loads)}
    readings = routing_readings(shares, shares)
    assert readings["effective_experts"] == pytest.approx(effective, rel=1e-4)
    assert readings["largest_load"] == pytest.approx(largest, rel=1e-4)
    assert readings["dead_experts"] == dead


def read_of(meter, *gates):
    meter.add_batch(record_of([*gates]), torch.ones(1, len(gates)))
    meter.add_step()
    return meter.read(Accelerator(cpu=True))


def test_one_expert_alone_is_no_routing():
    assert "effective_experts" not in read_of(Meter(), [1.0])


def test_an_expert_that_waits_for_its_topic_is_not_dead():
    meter = Meter()
    waiting = [read_of(meter, [float(n % 10 == 0), float(n % 10 > 0)])["dead_experts"] for n in range(60)]
    assert not any(waiting[5:])
    unused = [read_of(meter, [0.0, 1.0])["dead_experts"] for _ in range(60)]
    assert unused[10] == 0
    assert unused[-1] == 1


def test_a_checkpoint_keeps_what_an_expert_has_waited_for(tmp_path):
    straight, resumed, anew = Meter(), Meter(), Meter()
    for _ in range(5):
        read_of(straight, [0.5, 0.5])
    straight.save(tmp_path)
    resumed.restore(tmp_path)
    anew.restore(tmp_path / "of-0.1")
    dead = [read_of(meter, [0.0, 1.0])["dead_experts"] for meter in (straight, resumed, anew)]
    assert dead == [0, 0, 1]
    assert read_of(straight, [1.0, 0.0])["dead_experts"] == read_of(resumed, [1.0, 0.0])["dead_experts"]


def test_loads_count_real_tokens_and_losses_are_shares_of_a_step():
    meter = Meter()
    meter.add_batch(record_of([[1.0, 0.0], [9.0, 9.0]]), torch.tensor([[1, 0]]))  # the second is padding
    meter.add_batch(record_of([[0.0, 1.0], [0.0, 1.0]]), torch.tensor([[1, 1]]))
    meter.add(loss_lm=torch.tensor(1.5), loss_kl=torch.tensor(0.5))
    meter.add(loss_lm=torch.tensor(0.5), loss_kl=torch.tensor(0.1))
    meter.add_step()
    read = meter.read(Accelerator(cpu=True))
    assert read["effective_experts"] == pytest.approx(1 / ((1 / 3) ** 2 + (2 / 3) ** 2))
    assert read["loss_lm"] == pytest.approx(2.0)
    assert read["loss_kl"] == pytest.approx(0.6)
    assert read["tokens_per_second"] > 0
    assert read["memory_gib"] > 0.01
    assert meter.read(Accelerator(cpu=True)) == {}


def test_gradient_norms_by_kind():
    a, b, still = (torch.nn.Parameter(torch.zeros(2)) for _ in range(3))
    a.grad, b.grad = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 12.0])
    norms = gradient_norms({"router": [a], "experts": [b, still], "none": [still]})
    assert {kind: norm.item() for kind, norm in norms.items()} == {"router": 5.0, "experts": 12.0}
    assert before_clipping({"router": 0.5, "experts": 1.2}, 13.0) == pytest.approx({"router": 5.0, "experts": 12.0})
    assert before_clipping({"router": 0.0}, 0.0) == {"router": 0.0}


def test_every_step_has_them(tiny_recipe, run_cli, tmp_path):
    settings = ["--set", "train.max_grad_norm=0.001", "--set", "train.logging_steps=2"]
    code, text = run_cli("train", "--recipe", tiny_recipe, "--out", "r", *settings)
    assert code == 0, text
    logged = rows(tmp_path / "r")
    assert [row["step"] for row in logged] == [2, 4, 6]
    for row in logged:
        assert 1 <= row["effective_experts"] <= 4
        assert 0.25 <= row["largest_load"] <= 1
        assert math.hypot(row["grad_norm_router"], row["grad_norm_experts"]) == pytest.approx(
            row["grad_norm"], rel=1e-5
        )
        assert row["grad_norm"] > 0.001
        assert row["tokens_per_second"] > 0


def test_an_alarm_is_said_once_and_kept(tiny_recipe, run_cli, tmp_path):
    still = ["train.router_learning_rate=1e-9", "train.max_steps=40", "train.learning_rate=1e-6", "train.save_steps=20"]
    overrides = [part for setting in still for part in ("--set", setting)]
    code, text = run_cli("train", "--recipe", tiny_recipe, "--out", "r", *overrides)
    assert code == 0, text
    assert text.count("The KL has hardly fallen") == 1
    raised = [row for row in rows(tmp_path / "r") if "kl_not_falling" in row.get("alarms", {})]
    assert len(raised) == 1
    alarms = json.loads((tmp_path / "r" / "run.json").read_text())["stages"]["train"]["alarms"]
    assert raised[0]["alarms"]["kl_not_falling"] in alarms
