"""Alarms on made-up histories: each is raised by what it is about, and by nothing else."""

import pytest

from topiclora_cli.training.alarms import COLLAPSED, WINDOW, raised

STEPS = 100


def history(steps=STEPS, *, kl=lambda p: 1.0 - 0.8 * p, effective=3.0, dead=0.0):
    """Rows of a healthy run but for what is given; `kl` is a function of the run's progress."""
    return [
        {
            "step": step,
            "loss": 2.0,
            "loss_kl": kl(step / STEPS),
            "effective_experts": effective,
            "dead_experts": dead if not callable(dead) else dead(step),
        }
        for step in range(1, steps + 1)
    ]


@pytest.mark.parametrize(
    ("rows", "alarms"),
    [
        (history(), set()),
        (history(kl=lambda p: 1.0 - 0.05 * p), {"kl_not_falling"}),
        (history(kl=lambda p: 1.0 - 0.3 * p), set()),
        (history(kl=lambda p: 0.01), set()),
        (history(kl=lambda p: 0.5 + p), {"kl_rising"}),
        (history(kl=lambda p: 0.001 + 0.01 * p), set()),
        (history(kl=lambda p: 0.001 + p), {"kl_rising"}),
        (history(effective=1.05), {"collapsed"}),
        (history(effective=COLLAPSED), set()),
        (history(dead=0.9), set()),
        (history(dead=2.0), {"dead_experts"}),
        (history(dead=lambda step: 5.0 * (step % WINDOW > 0)), set()),
        (history(effective=1.0, dead=3.0, kl=lambda p: 1.0), {"collapsed", "dead_experts", "kl_not_falling"}),
    ],
)
def test_what_raises_an_alarm(rows, alarms):
    assert set(raised(rows, STEPS)) == alarms


def test_an_early_kl_is_not_judged():
    flat = history(kl=lambda p: 1.0)
    assert "kl_not_falling" not in raised(flat[:29], STEPS)
    assert "kl_not_falling" in raised(flat[:30], STEPS)


def test_few_rows_and_other_rows_raise_nothing():
    assert raised([], STEPS) == {}
    assert raised(history(2 * WINDOW - 1, effective=1.0), STEPS) == {}
    assert raised([{"step": n, "eval_loss": 2.0} for n in range(50)], STEPS) == {}
    assert raised([{"step": n, "loss": 2.0} for n in range(1, 101)], STEPS) == {}


def test_a_text_names_the_numbers_and_a_key():
    text = raised(history(kl=lambda p: 1.0), STEPS)["kl_not_falling"]
    assert "1.000 at the start" in text
    assert "train.router_learning_rate" in text
