"""The options of `topiclora eval`: each is a key of the recipe, and what is wrong with one is said in a line."""

import pytest

from topiclora_cli.cli import evaluate
from topiclora_cli.cli.eval_options import EVAL_OPTIONS
from topiclora_cli.recipe import load_recipe
from topiclora_cli.recipe.keys import recipe_keys


@pytest.fixture
def asked(tiny_recipe, run_cli, monkeypatch):
    """The eval section that a command line asks for; what is printed where it asks for none."""

    def call(*arguments, recipe=()):
        seen = []

        def open_trained(run, changes):
            seen.append(load_recipe(str(tiny_recipe), [*recipe, *changes]).eval)
            raise SystemExit(0)

        monkeypatch.setattr(evaluate, "open_trained", open_trained)
        code, text = run_cli("eval", *arguments)
        assert bool(code) != bool(seen)
        return seen[0] if seen else text

    return call


def test_every_option_is_a_key_of_the_recipe_and_only_questions_have_none():
    keys = {key.name for key in recipe_keys("eval.") if not key.name.startswith("eval.questions")}
    # What a call alone asks for by --probe and --study-questions, a recipe asks for of every evaluation.
    assert {option.key for option in EVAL_OPTIONS} == keys - {"eval.probes", "eval.probe_questions"}


@pytest.mark.parametrize(
    ("arguments", "key", "value"),
    [
        (["--tasks", "few, many"], "tasks", ["few", "many"]),
        (["--limit", "10"], "limit", 10),
        (["--limit", "0.25"], "limit", 0.25),
        (["--num-fewshot", "8"], "num_fewshot", 8),
        (["--batch-size", "auto:4"], "batch_size", "auto:4"),
        (["--batch-size", "8"], "batch_size", 8),
        (["--gen-kwargs", "temperature=0.7,do_sample=true"], "gen_kwargs", "temperature=0.7,do_sample=true"),
        (["--system-instruction", "Be: short # or not"], "system_instruction", "Be: short # or not"),
        (["--apply-chat-template"], "chat_template", True),
        (["--fewshot-as-one-turn"], "fewshot_as_multiturn", False),
        (["--unsafe-code"], "unsafe_code", True),
        (["--seed", "7"], "seed", 7),
        (["--seed", "0,None,8,52"], "seed", [0, None, 8, 52]),
        (["--metrics", "acc_norm"], "metrics", ["acc_norm"]),
        (["--predict-only"], "predict_only", True),
        (["--samples", '{"few": [0, 2]}'], "samples", {"few": [0, 2]}),
        (["--samples", "some.json"], "samples", "some.json"),
        (["--no-base"], "base", False),
        (["--include-path", "tasks"], "include_path", "tasks"),
    ],
)
def test_an_option_sets_its_key(arguments, key, value, asked):
    assert getattr(asked(*arguments), key) == value


def test_samples_take_the_place_of_the_recipes_limit_and_the_other_way_round(asked):
    assert asked("--samples", '{"few": [0]}', recipe=["eval.limit=4"]).limit is None
    assert asked("--limit", "3", recipe=["eval.limit=null", "eval.samples=some.json"]).samples is None
    assert "leave out one" in asked("--limit", "3", "--samples", "some.json")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--limit", "0"], "eval.limit: "),
        (["--limit", "2.5"], "eval.limit: "),
        (["--batch-size", "0"], "eval.batch_size: "),
        (["--batch-size", "some"], "eval.batch_size: "),
        (["--num-fewshot", "-1"], "eval.num_fewshot: "),
        (["--seed", "x"], "--seed 'x' is no whole number, nor four of them"),
        (["--seed", "1,2"], "eval.seed: one seed, or 4"),
        (["--samples", "{few: 1"], "--samples is no JSON"),
    ],
)
def test_a_value_that_is_none_is_one_line(arguments, message, asked):
    (line,) = asked(*arguments).splitlines()
    assert line.startswith("error: ")
    assert message in line
