"""Conversations trained on in all turns at once: what the chat template's generation markers mark, with its weights."""

import pytest
from transformers import AutoTokenizer

from topiclora_cli.data import Row, encode_rows
from topiclora_cli.data.row import Turn
from topiclora_cli.errors import TopicLoraError

PLAIN = (
    "{% for m in messages %}{% if m.role == 'assistant' %}Answer : {{ m.content }}<eos> "
    "{% else %}ask {{ m.content }} {% endif %}{% endfor %}"
)
MARKED = PLAIN.replace("{{ m.content }}<eos>", "{% generation %}{{ m.content }}<eos>{% endgeneration %}", 1)
TURNS = (Turn("user", "Sort"), Turn("assistant", "yes"), Turn("user", "now"), Turn("assistant", "no no"))
TALK = Row("User: Sort\n\nAssistant:", " yes\n\nUser: now\n\nAssistant: no no", turns=TURNS, together=True)


@pytest.fixture
def tokenizer(tiny_model_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.chat_template = MARKED
    return tokenizer


def encoded(tokenizer, row=TALK, **options):
    (example,) = encode_rows([row], tokenizer, max_length=100, **options)
    return example


def labelled(tokenizer, example):
    weights = example.token_weights()
    return [(tokenizer.convert_ids_to_tokens(t), w) for t, w in zip(example.input_ids, weights, strict=True) if w]


def test_all_answers_are_trained_on_and_nothing_between_them(tokenizer):
    example = encoded(tokenizer)
    whole = "ask Sort Answer : yes<eos> ask now Answer : no no<eos>"
    assert example.input_ids == tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert [token for token, _ in labelled(tokenizer, example)] == ["yes", "<eos>", "no", "no", "<eos>"]
    assert example.prompt_length == len(tokenizer("ask Sort Answer :", add_special_tokens=False)["input_ids"])
    assert example.token_weights(with_prompt=True) is None


def test_weights_of_turns_and_of_the_example_are_multiplied(tokenizer):
    turns = (TURNS[0], Turn("assistant", "yes", weight=0), TURNS[2], Turn("assistant", "no no", weight=2))
    example = encoded(tokenizer, Row(TALK.prompt, TALK.completion, turns=turns, together=True, loss_weight=0.25))
    assert labelled(tokenizer, example) == [("no", 0.5), ("no", 0.5), ("<eos>", 0.5)]


def test_an_end_that_the_template_leaves_out_belongs_to_the_last_answer(tokenizer):
    tokenizer.chat_template = MARKED.replace("<eos>", "")
    assert [token for token, _ in labelled(tokenizer, encoded(tokenizer))] == ["yes", "no", "no", "<eos>"]


def test_they_stand_among_other_examples_in_their_order(tokenizer):
    rows = [Row("Sort", " yes"), TALK, Row("now", " no")]
    assert [example.row for example in encode_rows(rows, tokenizer, max_length=100)] == rows


UNLIKE = Row(TALK.prompt, TALK.completion, turns=(*TURNS[:3], Turn("assistant", "no", weight=2)), together=True)


@pytest.mark.parametrize(
    ("template", "row", "options", "message"),
    [
        (PLAIN, TALK, {}, "turns: together goes by generation markers, and the tokenizer's chat template has none"),
        (None, TALK, {}, "generation markers, and the tokenizer's chat template has none"),
        (MARKED, TALK, {"chat_template": False}, "data.chat_template is false. Set turns: all"),
        (MARKED.replace("{% if m", "{% if m.content != 'yes' and m"), UNLIKE, {}, "does not mark each of the"),
    ],
)  # fmt: skip
def test_what_cannot_be_marked_is_one_line(tokenizer, template, row, options, message):
    tokenizer.chat_template = template
    with pytest.raises(TopicLoraError, match=message):
        encoded(tokenizer, row, **options)
