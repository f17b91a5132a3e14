"""Which questions are asked, and by what settings answers are generated: what people may write, and what not."""

import json

import pytest

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.evaluation.choosing import check_samples, read_samples, read_settings
from topiclora_cli.evaluation.harness import EvalRequest


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("temperature=0.7,do_sample=true", {"temperature": 0.7, "do_sample": True}),
        ('until=["\\n", "Q:"], max_gen_toks=8', {"until": ["\n", "Q:"], "max_gen_toks": 8}),
        ('{"temperature": 0}', {"temperature": 0}),
        ("top_p=1e-3,name=plain", {"top_p": 0.001, "name": "plain"}),
        (None, {}),
    ],
)
def test_settings_of_generation_are_read_as_lm_eval_writes_them(text, settings):
    assert read_settings(text, key="eval.gen_kwargs") == settings


@pytest.mark.parametrize(("text", "message"), [("hot", "'hot' sets nothing"), ("{hot", "no JSON")])
def test_settings_that_set_nothing_are_refused(text, message):
    with pytest.raises(TopicLoraError, match=message):
        read_settings(text, key="eval.gen_kwargs")


def test_samples_are_places_in_order_each_once(tmp_path):
    file = tmp_path / "some.json"
    file.write_text(json.dumps({"few": [2, 0, 2]}))
    assert read_samples(str(file)) == read_samples({"few": [0, 2]}) == {"few": (0, 2)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is no file"),
        ("{", "is no JSON"),
        ("[0, 1]", "no mapping of tasks"),
        ("{}", "no mapping of tasks"),
        ('{"few": []}', "few has no list of places"),
        ('{"few": [-1]}', "few has no list of places"),
        ('{"few": ["a"]}', "few has no list of places"),
        ('{"few": 3}', "few has no list of places"),
    ],
)
def test_a_file_of_samples_that_names_no_questions_is_refused(content, message, tmp_path):
    file = tmp_path / "some.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(TopicLoraError, match=message):
        read_samples(str(file))


def test_samples_of_what_is_not_there_are_refused():
    with pytest.raises(TopicLoraError, match=r"'fow' is no task to evaluate. Did you mean 'few'"):
        check_samples({"fow": (0,)}, {"few": 3})
    with pytest.raises(TopicLoraError, match=r"few has no question 3: it has 3, counted from 0. Name places up to 2"):
        check_samples({"few": (0, 3)}, {"few": 3})


def test_a_request_counts_what_it_asks():
    assert [EvalRequest(["a"], limit=limit).asks("a", 12) for limit in (None, 5, 40, 0.1, 0.5)] == [12, 5, 12, 2, 6]
    assert EvalRequest(["a"], samples={"a": (1, 4, 5)}).asks("a", 12) == 3
    assert EvalRequest(["a"], samples={"b": (1, 4, 5)}).asks("a", 12) == 12
