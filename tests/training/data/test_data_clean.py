"""Duplicates and the evaluation's questions are found, and little else."""

import pytest

from topiclora_cli.evaluation.harness import EvalRequest, evaluation_questions
from topiclora_cli.evaluation.tasks.dataset import TEST_SEED
from topiclora_cli.tasks import generate
from topiclora_cli.training.data import Row
from topiclora_cli.training.data.clean import Contamination, Repetitions
from topiclora_cli.training.data.row import embedded_row

STORY = "Natalia sold clips to 48 of her friends in April and then she sold half as many clips in May"


def test_repetitions_to_the_letter_and_by_words():
    rows = [
        Row("Two plus two?", " 4"),
        Row("two  plus two", " 4"),
        Row("Two plus two?", " 4"),
        Row("Two plus two?", " 5"),
    ]
    for mode, expected in (
        ("none", [False, False, False, False]),
        ("exact", [False, False, True, False]),
        ("normalised", [False, True, True, False]),
    ):
        seen = Repetitions(mode)
        assert [seen(row) for row in rows] == expected


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        (f"Question: {STORY.upper()}!\nAnswer:", True),
        (" ".join(STORY.split()[:13]), True),
        (" ".join(STORY.split()[:12]), False),
        (f"Natalia also sold {' '.join(STORY.split()[3:])}", True),
        ("Weng earns 12 dollars an hour for babysitting and yesterday she did 50 minutes of it", False),
    ],
)
def test_thirteen_words_in_a_row_are_contamination(prompt, found):
    assert Contamination([STORY])(Row(prompt, " 72")) is found


def test_the_answer_counts_too():
    assert Contamination([STORY])(Row("Tell a story.", f" {STORY}"))


def test_short_questions_count_as_a_whole():
    overlap = Contamination(["What is 7 times 12", "Which of the planets is the largest of all"])
    assert overlap(Row("What is 7 times 12?", " 84"))
    assert not overlap(Row("Peter asks: what is 7 times 12?", " 84"))
    assert overlap(Row("Tell me: which of the planets is the largest of all?", " Jupiter"))


def test_wording_that_a_task_repeats_is_no_question():
    wording = "Read the passage below and then choose the one option that answers the question best"
    questions = [f"{wording} {'item' * (i + 1)}" for i in range(30)]
    overlap = Contamination(questions)
    assert not overlap(Row(f"{wording} something else", " A"))


def test_the_harness_tells_its_questions():
    questions = list(evaluation_questions(EvalRequest(tasks=["topiclora_unit_conversion", "topiclora_syllogisms"])))
    assert len(questions) > 100
    overlap = Contamination(questions)
    asked, fresh = (
        [embedded_row(example) for example in generate("unit_conversion", split, 50, seed=TEST_SEED)]
        for split in ("test", "train")
    )
    assert sum(overlap(row) for row in asked) == 50
    assert sum(overlap(row) for row in fresh) == 0
