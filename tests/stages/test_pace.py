"""What fits into some minutes, by made-up paces and on a tiny model."""

import re

import pytest

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import altered, load_recipe
from topiclora_cli.runs.progress import LoggedProgress
from topiclora_cli.stages.pace import FEWEST_QUESTIONS, FEWEST_STEPS, Pace, choose_sizes, measure_pace, sizes_of

SLOW, FAST = Pace(load=5.0, prompt=0.05, step=6.0), Pace(load=1.0, prompt=0.001, step=0.05)


def test_a_fast_machine_takes_the_recipe_s_own_sizes():
    fit = choose_sizes(load_recipe("quickstart"), FAST, 600)
    assert (fit.steps, fit.questions) == (256, 40)


@pytest.mark.parametrize("minutes", [10, 12, 20, 40])
def test_the_whole_chain_is_planned_within_its_time(minutes):
    fit = choose_sizes(load_recipe("quickstart"), SLOW, 60 * minutes)
    assert 0.75 * 60 * minutes < sum(fit.seconds.values()) <= 60 * minutes
    assert set(fit.seconds) == {"graph", "training", "evaluation", "export"}
    assert fit.steps >= FEWEST_STEPS
    assert fit.questions >= FEWEST_QUESTIONS


def test_more_minutes_are_more_steps_and_questions():
    few, many = (choose_sizes(load_recipe("quickstart"), SLOW, 60 * minutes) for minutes in (10, 20))
    assert few.steps < many.steps
    assert few.questions < many.questions


@pytest.mark.parametrize("spent", [0, 200])
def test_too_few_minutes_say_how_many_would_do(spent):
    """With the time that finding it out takes, and of the minutes that were asked for."""
    with pytest.raises(TopicLoraError, match=r"^5 minutes are too few to train anything.*a step takes 6.0 s") as error:
        choose_sizes(load_recipe("quickstart"), SLOW, 300, spent=spent)
    enough = int(re.search(r"--minutes (\d+)", error.value.hint)[1])
    assert choose_sizes(load_recipe("quickstart"), SLOW, 60 * enough, spent=spent).steps >= FEWEST_STEPS


def test_a_time_that_nobody_insists_on_gives_way():
    fit = choose_sizes(load_recipe("quickstart"), SLOW, 60, insist=False)
    assert (fit.steps, fit.questions) == (FEWEST_STEPS, FEWEST_QUESTIONS)


def test_a_method_without_topics_needs_no_graph_and_no_export():
    fit = choose_sizes(load_recipe("perft-quickstart"), SLOW, 600)
    assert set(fit.seconds) == {"training", "evaluation"}


def test_sizes_are_keys_that_a_recipe_takes():
    recipe = load_recipe("quickstart")
    fit = choose_sizes(recipe, SLOW, 900)
    sizes = sizes_of(recipe, fit)
    assert set(sizes) == {"eval.limit", "data.per_family"}
    small = altered(recipe, sizes.items(), where="test")
    assert (small.eval.limit, small.data.per_family) == (fit.questions, fit.steps)
    stepped = sizes_of(load_recipe("quickstart", ["train.max_steps=300"]), fit)
    assert stepped == {"eval.limit": fit.questions, "train.max_steps": fit.steps, "data.limit": 16 * fit.steps}


def test_a_pace_is_measured_on_real_steps(tiny_recipe):
    pace = measure_pace(load_recipe(str(tiny_recipe)), LoggedProgress())
    assert min(pace.load, pace.prompt, pace.step) > 0
