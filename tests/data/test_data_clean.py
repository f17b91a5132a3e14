"""Duplicates and the evaluation's questions are found, and little else."""

import json

import pytest

from topiclora_cli.data import Row
from topiclora_cli.data.clean import Contamination, Repetitions
from topiclora_cli.data.families import generate
from topiclora_cli.data.row import Turn, embedded_row
from topiclora_cli.evaluation.harness import EvalRequest, evaluation_questions
from topiclora_cli.evaluation.tasks.dataset import TEST_SEED

STORY = "Natalia sold clips to 48 of her friends in April and then she sold half as many clips in May"


def test_repetitions_to_the_letter_and_but_for_case_and_white_space():
    rows = [
        Row("Two plus two?", " 4"),
        Row("two  plus\ntwo?", " 4"),
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


def test_a_symbol_tells_two_questions_apart():
    prompts = [
        "Close ( [",
        "Close [ (",
        "Close { (",
        "7 - 3",
        "7 + 3",
        "7 * 3",
        "x < y",
        "x > y",
        "Why",
        "Why?",
        "-7 3",
    ]
    seen = Repetitions("normalised")
    assert not any(seen(Row(prompt, " yes")) for prompt in prompts)
    # One character, in one code and in two.
    assert not seen(Row("caf\u00e9", " yes"))
    assert seen(Row("CAFE\u0301", " yes"))


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
    turns = (Turn("user", "What is 7 times 12?"), Turn("assistant", "84"))
    assert overlap(Row("User: What is 7 times 12?\n\nAssistant:", " 84", turns=turns))
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


def test_questions_of_stock_tasks_are_told_by_their_column_or_their_text(tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"q": f"{i} is", "a": "odd"}) + "\n" for i in (1, 3)))
    settings = (
        f"dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {tmp_path / 'rows.jsonl'}\n"
        "output_type: multiple_choice\ntest_split: test\ndoc_to_text: 'Say: {{q}}'\n"
        "doc_to_choice: [odd, even]\ndoc_to_target: 0\nshould_decontaminate: true\n"
    )
    (tmp_path / "one.yaml").write_text(f"task: by_column\n{settings}doc_to_decontamination_query: q\n")
    (tmp_path / "two.yaml").write_text(f"task: by_text\n{settings}doc_to_decontamination_query: 'Say: {{{{q}}}}'\n")
    for task, expected in (("by_column", ["1 is", "3 is"]), ("by_text", ["Say: 1 is", "Say: 3 is"])):
        assert list(evaluation_questions(EvalRequest(tasks=[task], include_path=str(tmp_path)))) == expected
