"""The questions that flipped are shown as the models were asked them, with the answers that their scores are of."""

import pytest

from topiclora_cli.evaluation.comparison.compare import compare
from topiclora_cli.evaluation.comparison.flips import in_turn


def chosen(*likelihoods, contexts=("Two and two?",) * 2, choices=(" four", " a dozen and more"), target="0"):
    """More of a sample whose choices have these log-likelihoods."""
    asked = zip(contexts, choices, strict=True)
    arguments = {f"gen_args_{i}": {"arg_0": each, "arg_1": choice} for i, (each, choice) in enumerate(asked)}
    return {"arguments": arguments, "filtered_resps": [[str(v), "False"] for v in likelihoods], "target": target}


def flips(lm_eval_folder, metric, before, after):
    """Those of one question that the second side alone answers rightly."""
    one = lm_eval_folder("one", {"sums": {metric: [0.0, 1.0]}}, samples=lambda i: before)
    two = lm_eval_folder("two", {"sums": {metric: [1.0, 1.0]}}, samples=lambda i: after)
    (found,) = compare([one, two], show_flips=5)
    assert found.flipped == 1
    return found.flips


@pytest.mark.parametrize(("metric", "before", "after"), [("acc", (-2, -1), (-1, -2)), ("acc_norm", (-4, -4), (-1, -9))])
def test_choices_are_those_that_the_metric_takes(lm_eval_folder, metric, before, after):
    (flip,) = flips(lm_eval_folder, metric, chosen(*before), chosen(*after))
    assert (flip.question, flip.right, flip.baseline, flip.answer, flip.won) == (
        *("Two and two?", "four", "a dozen and more", "four"),
        True,
    )


def test_choices_may_stand_within_the_text(lm_eval_folder):
    ways = {"contexts": ("I put the egg in the box, and the egg", "I put the egg in the box, and the box")}
    ways |= {"choices": (" broke.",) * 2, "target": " broke."}
    (flip,) = flips(lm_eval_folder, "acc", chosen(-2, -1, **ways), chosen(-1, -2, **ways))
    assert flip.question == "I put the egg in the box, and the ... broke."
    assert (flip.right, flip.baseline, flip.answer) == ("egg", "box", "egg")


def test_what_a_model_wrote_is_shown_beside_what_was_sought(lm_eval_folder):
    def wrote(text):
        asked = {"gen_args_0": {"arg_0": "x" * 700 + " Two and two?", "arg_1": {"until": ["\n"]}}}
        return {"arguments": asked, "filtered_resps": [text], "target": ["4", "four"]}

    (flip,) = flips(lm_eval_folder, "exact_match", wrote(" five"), wrote(" 4"))
    assert (flip.right, flip.baseline, flip.answer) == ("4 / four", "five", "4")
    assert flip.question.startswith("... xxx")
    assert flip.question.endswith(" Two and two?")


def test_a_continuation_is_given_or_not(lm_eval_folder):
    def continued(greedy):
        return {
            "arguments": {"gen_args_0": {"arg_0": "Two and two is", "arg_1": " four"}},
            "filtered_resps": [["-1", str(greedy)]],
            "target": " four",
        }

    (flip,) = flips(lm_eval_folder, "acc", continued(False), continued(True))
    assert (flip.right, flip.baseline, flip.answer) == ("four", "other words", "four")


def test_tasks_have_their_turn():
    flipped = {"a": ["1", "2", "3"], "b": ["4"], "c": ["5", "6"]}
    assert in_turn(flipped, 4) == {"a": ["1", "2"], "b": ["4"], "c": ["5"]}
    assert in_turn(flipped, 0) == in_turn({}, 3) == {}
