"""Alarms on made-up histories: each is raised by what it is about, and by nothing else."""

import pytest

from topiclora_cli.training.alarms import COLLAPSED, WINDOW, raised

STEPS = 100


# The first twenty steps of a measured run in batches of eight, whose KL was 1.1 then and 1.0 much later.
CHANCE = [1.33, 0.96, 1.50, 0.84, 1.32, 0.91, 1.59, 1.26, 0.96, 0.66]
CHANCE += [0.76, 0.52, 1.86, 1.04, 1.54, 1.28, 1.21, 1.55, 1.07, 1.68]
# Means over six steps each of a measured run: 8 shared and 8 routed experts, the update as large as a LoRA's.
MEASURED = [1.07, 0.89, 0.74, 0.76, 0.72, 0.70, 0.58, 0.53, 0.55, 0.68, 0.72, 0.67, 0.59, 0.57, 0.45]
# Means over ten steps each of two measured runs with prior forcing: at a rate that was too high, and at a quarter of it
# with eight times the KL's weight.
HOT, SOUND = [1.13, 1.25, 1.24, 1.09, 1.04, 0.96], [1.12, 0.92, 0.75, 0.63, 0.51, 0.49]


def history(steps=STEPS, *, kl=lambda p: 1.0 - 0.8 * p, effective=3.0, dead=0.0, forcing=None):
    """Rows of a healthy run but for what is given; `kl` and `forcing` are functions of the run's progress."""
    return [
        {
            "step": step,
            "loss": 2.0,
            "loss_kl": kl(step / STEPS),
            "effective_experts": effective,
            "dead_share": dead if not callable(dead) else dead(step),
            **({} if forcing is None else {"prior_forcing": forcing(step / STEPS)}),
        }
        for step in range(1, steps + 1)
    ]


def falling(progress):
    """eta from 0.9 to 0 in half of the run."""
    return max(0.0, 0.9 - 1.8 * progress)


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
        (history(dead=0.44), set()),
        (history(dead=0.5), {"dead_experts"}),
        (history(dead=lambda step: 0.6 * (step % WINDOW > 0)), set()),
        (history(effective=1.0, dead=0.8, kl=lambda p: 1.0), {"collapsed", "dead_experts", "kl_not_falling"}),
        (history(kl=lambda p: MEASURED[min(14, int(15 * p))]), set()),
        (history(kl=lambda p: HOT[min(5, int(6 * p))], forcing=falling)[:60], {"kl_not_falling"}),
        (history(kl=lambda p: SOUND[min(5, int(6 * p))], forcing=falling), set()),
        (history(kl=lambda p: CHANCE[round(STEPS * p) % 20] * (1.0 - 0.3 * p)), set()),
        (history(kl=lambda p: CHANCE[round(STEPS * p) % 20] * (0.6 + p)), {"kl_rising"}),
        (history(kl=lambda p: max(0.3, 1.0 - 2 * p) + max(0.0, p - 0.5) * 0.6), set()),
        (history(kl=lambda p: max(0.3, 1.0 - 2 * p) + max(0.0, p - 0.5)), {"kl_risen_again"}),
        (history(kl=lambda p: max(0.02, 1.0 - 2 * p) + max(0.0, p - 0.5) * 0.15), set()),
        (history(forcing=falling, effective=7.0), set()),
        (history(forcing=falling, dead=lambda step: 0.7 if step < 15 else 0.1), set()),
        (history(forcing=falling, dead=0.6), {"dead_experts"}),
        (history(forcing=falling, effective=1.1), {"collapsed"}),
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


def test_what_the_prior_has_forced_is_put_down_to_it():
    whole = history(forcing=falling, effective=1.1, dead=0.6)
    for rows, blamed in ((whole[:20], True), (whole, False)):
        for name, text in raised(rows, STEPS).items():
            assert ("loss.prior_forcing" in text) is blamed, name
        assert {"collapsed", "dead_experts"} <= raised(rows, STEPS).keys()
