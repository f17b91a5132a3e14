"""Templates over columns, and the filters for multiple choice."""

import pytest

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.training.data.templates import condition, letter, options, shuffled, template

QUESTION = {"question": "Which is red?", "choices": ["sky", "blood"], "answer": 1, "label": "2", "key": "b"}


def test_options_and_letters_render_a_question():
    fill = template("data.prompt", "{{ question }}\n{{ choices | options }}\nAnswer: {{ answer | letter }}")
    assert fill(QUESTION) == "Which is red?\nA. sky\nB. blood\nAnswer: B"
    assert template("k", "{{ choices | options(' ') }}")(QUESTION) == "A. sky B. blood"


@pytest.mark.parametrize(
    ("place", "start", "expected"), [(0, 0, "A"), ("2", 1, "B"), (" c ", 0, "C"), (25, 0, "Z"), ("0", 0, "A")]
)
def test_letter_takes_numbers_digits_and_letters(place, start, expected):
    assert letter(place, start) == expected


@pytest.mark.parametrize("place", [-1, 26, "", "ab", None, 1.5])
def test_what_is_no_place_is_refused(place):
    with pytest.raises(ValueError, match="no place"):
        letter(place)


def test_too_many_options_are_refused():
    with pytest.raises(ValueError, match="no place"):
        options(range(27))


def test_shuffled_choices_keep_their_answer_but_not_its_place():
    completion = template("k", "{{ (choices | shuffled).index(choices[answer]) | letter }}")
    rows = [{"choices": [f"right {number}", "left", "up", "down"], "answer": 0} for number in range(400)]
    letters = [completion(row) for row in rows]
    assert all(70 < letters.count(place) < 130 for place in "ABCD")
    prompt = template("k", "{{ choices | shuffled | options }}")
    assert all(f"{place}. right" in prompt(row) for place, row in zip(letters, rows, strict=True))
    assert shuffled(("yes", "no")) == shuffled(["yes", "no"])


def test_the_order_of_shuffled_choices_never_changes():
    assert shuffled(["sky", "blood", "grass", "snow"]) == ["grass", "snow", "blood", "sky"]


def test_conditions_hold_or_not():
    assert condition("data.filter", "answer >= 1 and 'red' in question")(QUESTION) is True
    assert condition("data.filter", "choices | length > 2")(QUESTION) is False


@pytest.mark.parametrize(
    ("make", "text", "message"),
    [
        (template, "{{ question ", "data.x is not a valid Jinja template"),
        (template, "{{ choices | letterr }}", "data.x is not a valid Jinja template: No filter named 'letterr'"),
        (template, "{{ qestion }}", "data.x uses a missing column: 'qestion'.*Columns: question, choices"),
        (template, "{{ question | letter }}", "data.x fails on a row: 'Which is red.' is no place"),
        (template, "{{ ''.__class__.__mro__ }}", "data.x fails on a row|missing column|unsafe"),
        (condition, "answer >=", "data.x is not a valid Jinja expression"),
        (condition, "answr > 1", "data.x uses a missing column: 'answr'"),
        (condition, "question > 1", "data.x fails on a row"),
    ],
)
def test_mistakes_name_the_key(make, text, message):
    with pytest.raises(TopicLoraError, match=message):
        make("data.x", text)(QUESTION)
