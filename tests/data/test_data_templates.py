"""Templates over columns, and the filters for multiple choice."""

import pytest

from topiclora_cli.data import templates
from topiclora_cli.data.missing import MissingValue, Names
from topiclora_cli.data.tables import read_table
from topiclora_cli.data.templates import letter, options, shuffled
from topiclora_cli.errors import TopicLoraError

QUESTION = {"question": "Which is red?", "choices": ["sky", "blood"], "answer": 1, "label": "2", "key": "b"}


def template(key, text):
    return templates.template(key, text, Names())


def condition(key, text):
    return templates.condition(key, text, Names())


def marked(row):
    return Names().marked(row)


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
        (template, "{{ question | letter }}", "data.x fails on a row: 'Which is red.' is no place"),
        (template, "{{ ''.__class__.__mro__ }}", "data.x fails on a row|missing column|unsafe"),
        (condition, "answer >=", "data.x is not a valid Jinja expression"),
        (condition, "question > 1", "data.x fails on a row"),
    ],
)
def test_mistakes_name_the_key(make, text, message):
    with pytest.raises(TopicLoraError, match=message):
        make("data.x", text)(QUESTION)


def test_keys_come_before_methods_and_odd_names_through_the_row():
    inner = {"items": "pens", "get": 3, "keys": None}
    row = {"x": inner, "items": 2, "correct-answer": "yes", "two words": "no"}
    fill = template("k", "{{ x.items }} {{ x.get }} {{ items }} {{ row['correct-answer'] }} {{ row['two words'] }}")
    assert fill(marked(row)) == "pens 3 2 yes no"
    with pytest.raises(MissingValue, match=r"^x\.keys$"):
        template("k", "{{ x.keys }}")(marked(row))
    assert template("k", "{{ row }}")({"row": "its own"}) == "its own"
    assert template("k", "{% for key, value in x.items() %}{{ key }}{{ value }}{% endfor %}")({"x": {"a": 1}}) == "a1"


def test_a_function_is_no_text():
    for text in ("{{ x.values }}", "{{ range }}"):
        with pytest.raises(TopicLoraError, match="is a function, not a column"):
            template("k", text)({"x": {"a": 1}})


ASKS = ["{{ a }}", "{{ a ~ 'x' }}", "{{ a | trim }}", "{{ 2 + a }}", "{{ [1, a] | join(' ') }}", "{{ a | int }}"]
ASKS += ["{{ [a] | options }}", "{{ a | letter }}", "{% for x in a %}{% endfor %}", "{{ a.b }}", "{{ a[0] }}"]


@pytest.mark.parametrize("text", [*ASKS, "{{ list[1] }}", "{{ none }}"])
@pytest.mark.parametrize("value", [None, float("nan")])
def test_what_is_missing_has_no_text(text, value):
    with pytest.raises(MissingValue):
        template("k", text)(marked({"a": value, "list": [1, value]}))


@pytest.mark.parametrize("row", [{"a": None, "b": "x"}, {"b": "x"}, {"a": float("nan"), "b": "x"}])
def test_what_is_missing_can_be_asked_about(row):
    row = marked(row)
    holds = ["a is none", "a is not defined", "not a", "a == ''", "a == none", "b != ''", "a | default('x') == 'x'"]
    assert all(condition("k", text)(row) for text in holds)
    assert not any(condition("k", text)(row) for text in ["a != ''", "a is defined", "a", "a is not none", "a != none"])
    assert template("k", "{% if a %}{{ a }}{% else %}-{% endif %}{{ a | default('x') }}")(row) == "-x"


def test_names_that_no_row_has_are_told_from_those_that_some_lack():
    names = Names()
    fill = templates.template("data.x", "{% if a and c.d and c['e'] %}{% endif %}{{ z if z is defined }}", names)
    for row in ({"a": 1, "c": {"d": 1}}, {"b": 1, "c": {"e": 1}}):
        fill(names.marked(row))
    names.refuse_unknown()
    templates.condition("data.filter", "answr or b", names)({"b": 1})
    with pytest.raises(TopicLoraError, match=r"data.filter uses a missing column: 'answr'.*Columns: a, c, b\."):
        names.refuse_unknown()


def test_values_are_printed_as_json_writes_them():
    row = {"yes": True, "n": 2, "list": [True, None, "é", 0.5], "map": {"a": [1]}, "huge": 12345678901234567890123}
    fill = template("k", "{{ yes }} {{ n }} {{ list }} {{ map }} {{ huge }} {{ 1 == 1 }}\n")
    assert fill(marked(row)) == 'true 2 [true, null, "é", 0.5] {"a": [1]} 12345678901234567890123 true\n'
    assert options([True, 2]) == "A. true\nB. 2"


def test_numbers_within_lists_are_to_the_letter(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": [0.10, {"k": 1E5}, 12345678901234567890.25, -0.0, true, null]}')
    row = marked(next(read_table(tmp_path / "a.jsonl", "json")))
    text = '[0.10, {"k": 1E5}, 12345678901234567890.25, -0.0, true, null]'
    assert template("k", "{{ a }}")(row) == template("k", "{{ a | tojson }}")(row) == text


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("{{ '' ~ yes ~ ' ' ~ list }}", 'true [true, "it\'s <b>"]'),
        ("{{ list | join('; ') }}", "true; it's <b>"),
        ("{{ people | join(', ', attribute='name') }}", "true, Bo"),
        ("{{ yes | string }} {{ list | string }}", 'true [true, "it\'s <b>"]'),
        ("{{ list | tojson }} {{ yes | tojson }}", '[true, "it\'s <b>"] true'),
    ],
)
def test_whatever_joins_values_prints_them_as_they_are_printed_alone(text, printed):
    row = {"yes": True, "list": [True, "it's <b>"], "people": [{"name": True}, {"name": "Bo"}]}
    assert template("k", text)(marked(row)) == printed


@pytest.mark.parametrize("text", ["{{ '' ~ a }}", "{{ a | string }}", "{{ a | tojson }}", "{{ [a] | join }}"])
def test_what_is_missing_has_no_text_in_a_join_either(text):
    with pytest.raises(MissingValue):
        template("k", text)(marked({"a": None}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ list | map('upper') }}", r"not a list yet: add `\| list`"),
        ("{{ self }}", r"a TemplateReference is no text.*row\['"),
        ("{{ data }}", "a bytes is no text"),
        ("{{ whole }}", "a bytes is no text"),
    ],
)
def test_what_has_no_text_is_refused(text, message):
    row = marked({"list": ["a"], "self": "x", "data": b"ab", "whole": {"bytes": b"ab"}})
    with pytest.raises(TopicLoraError, match=message):
        template("k", text)(row)


def test_text_becomes_a_number_only_where_it_is_one():
    assert template("k", "{{ (a | int) + 1 }} {{ (b | float) * 2 }}")({"a": "41", "b": "0.5"}) == "42 1.0"
    for text in ("{{ c | int }}", "{{ b | int }}", "{{ c | float }}"):
        with pytest.raises(TopicLoraError, match=r"k fails on a row: '.*' is no (whole )?number"):
            template("k", text)({"b": "0.5", "c": "many"})
