"""What each probe does to a question: the same at every call, what is not its business left alone."""

from random import Random

import pytest

from topiclora_cli.evaluation.asking import Asked
from topiclora_cli.evaluation.probes import PROBES
from topiclora_cli.evaluation.probes.apply import joined_with, probed
from topiclora_cli.evaluation.probes.text import (
    DISTRACTORS,
    distract,
    mistype,
    parts,
    permute_options,
    shuffle_sentences,
    truncate,
)

BOXES = "Maya puts the drum in the basket. Maya falls asleep. Noor moves it. Where is the drum?\n"
TAIL = "Options: drawer, basket\nAnswer:"
LETTERS = "Which is a fruit?\nA. stone\nB. apple\nC. chair\nAnswer:"


def asked(task, place, text, choices=None, right=0, answer=None, prefix=""):
    """A question of a task whose description or shots stand before it."""
    kind = "multiple_choice" if choices else "generate_until"
    continuations = tuple(f" {choice}" for choice in choices) if choices else ({"until": ["\n"]},)
    contexts = (prefix + text,) * len(continuations)
    answer = continuations[right] if choices else answer
    order = tuple(range(len(continuations)))
    return Asked(task, place, {}, kind, text, contexts, continuations, (right,), answer, order)


QUESTIONS = [
    asked("boxes", 0, BOXES + TAIL, ["drawer", "basket"], 1, prefix="Read well.\n"),
    asked("boxes", 1, BOXES.replace("drum", "ring") + TAIL, ["drawer", "basket"], 1),
    asked("boxes", 2, BOXES.replace("drum", "book") + TAIL, ["drawer", "basket"], 1),
    asked("sums", 0, "Nia writes down 7. Multiply by 5. What comes out?\nAnswer:", answer=" 35"),
    asked("sums", 1, "Emil writes down 8. Multiply by 5. What comes out?\nAnswer:", answer=" 40"),
    asked("sums", 2, "Rosa writes down 9. Multiply by 5. What comes out?\nAnswer:", answer=" 45"),
]
TOPICS = [("minds", "stories")] * 3 + [("maths",)] * 3


def test_a_question_is_parted_from_its_options_and_its_cue():
    assert parts(BOXES + TAIL) == (BOXES, TAIL)
    assert parts(LETTERS) == ("Which is a fruit?\n", LETTERS.partition("\n")[2])
    assert parts("One line alone:") == ("One line alone:", "")


def test_truncation_takes_the_last_third_of_the_words_and_nothing_else():
    short = truncate(BOXES + TAIL, Random(0))
    assert short == "Maya puts the drum in the basket. Maya falls asleep. Noor\n" + TAIL
    assert truncate("Why?", Random(0)) is None


def test_a_typo_moves_letters_of_longer_words_and_no_digit():
    text = "Subtract 1234 from twelve thousand.\nAnswer:"
    wrong = mistype(text, Random(1))
    assert wrong != text
    assert wrong.endswith("\nAnswer:")
    assert "1234" in wrong
    assert sorted(wrong) == sorted(text)
    assert mistype("1 + 1 =", Random(0)) is None


def test_sentences_come_in_another_order_and_what_asks_stays_last():
    mixed = shuffle_sentences(BOXES + TAIL, Random(0))
    assert mixed != BOXES + TAIL
    assert mixed.endswith("Where is the drum?\n" + TAIL)
    assert sorted(mixed) == sorted(BOXES + TAIL)
    assert shuffle_sentences("z = 7\nprint(z)\nAnswer:", Random(0)) is None


def test_a_distractor_stands_before_the_question():
    text = distract(BOXES, Random(0))
    assert text.endswith(f" {BOXES}")
    assert text.removesuffix(f" {BOXES}") in DISTRACTORS


def test_options_in_a_line_change_places_and_answers_stay():
    text, order = permute_options(BOXES + TAIL, ["drawer", "basket"], Random(0))
    assert text == BOXES + "Options: basket, drawer\nAnswer:"
    assert order == [0, 1]
    assert permute_options("Is it so? yes or no is the question", ["yes", "no"], Random(0))[0].startswith(
        "Is it so? no or"
    )
    assert permute_options(BOXES, ["drawer", "basket"], Random(0)) is None


def test_options_by_letter_change_places_and_their_letters_say_where_they_are():
    text, order = permute_options(LETTERS, ["A", "B", "C"], Random(0))
    lines = text.splitlines()[1:4]
    assert sorted(line[3:] for line in lines) == ["apple", "chair", "stone"]
    assert [line[0] for line in lines] == ["A", "B", "C"]
    assert [lines[at][3:] for at in order] == ["stone", "apple", "chair"]
    own_words, same = permute_options(LETTERS, ["stone", "apple", "chair"], Random(0))
    assert (own_words, same) == (text, [0, 1, 2])


@pytest.mark.parametrize("probe", PROBES)
def test_a_probe_changes_questions_alike_at_every_call_and_by_the_seed(probe):
    once = probed(QUESTIONS, TOPICS, probe, seed=0)
    assert once == probed(QUESTIONS, TOPICS, probe, seed=0)
    assert len(once) == len(QUESTIONS)
    for before, after in zip(QUESTIONS, once, strict=True):
        if after is None:
            assert probe == "permute-options"
            assert before.task == "sums"
            continue
        assert after.contexts[0] != before.contexts[0]
        assert (after.doc, after.right, after.answer) == (before.doc, before.right, before.answer)
        assert after.contexts[0].startswith("Read well.\n") == before.contexts[0].startswith("Read well.\n")
    if probe not in ("truncate", "permute-options"):
        assert any(probed(QUESTIONS, TOPICS, probe, seed=seed) != once for seed in range(1, 9))


def test_shots_are_of_the_task_and_another_topic_is_of_another():
    few = probed(QUESTIONS, TOPICS, "fewshot", seed=0)[3].contexts[0]
    assert few.count("Multiply by 5") == 3
    assert few.endswith(QUESTIONS[3].text)
    assert " 40\n\n" in few
    two = probed(QUESTIONS, TOPICS, "two-topics", seed=0)[3].contexts[0]
    assert (two.count("Multiply by 5"), two.count("Maya falls asleep")) == (1, 1)
    assert " basket\n\n" in two
    companion = joined_with(QUESTIONS, TOPICS, seed=0)[3]
    assert two.startswith(QUESTIONS[companion].text)
    assert not set(TOPICS[companion]) & set(TOPICS[3])
    assert joined_with(QUESTIONS[:2], TOPICS[:2], seed=0) == [None, None]
    assert probed(QUESTIONS[:2], TOPICS[:2], "fewshot", seed=0) == [None, None]
    assert probed(QUESTIONS[:2], TOPICS[:2], "two-topics", seed=0) == [None, None]
