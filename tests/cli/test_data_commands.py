"""`topiclora data`: what is trained on is seen beforehand, by the tokenizer alone."""

import json

import pytest
from rich.console import Console

from topiclora_cli.reporting.preview import example_text, tokens_table
from topiclora_cli.runs.results.preview import ExampleView, Passage, TokenView
from topiclora_cli.stages import inputs

ROWS = [{"question": "Sort now", "answer": "yes"}, {"question": "Sort now", "answer": "yes"}, {"question": "Sort"}]


@pytest.fixture
def recipe(tiny_recipe, tmp_path):
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return ["--recipe", tiny_recipe, "--set", "data.source=d.jsonl"]


@pytest.fixture
def no_weights(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(inputs, "load_base", refuse)


def test_preview_shows_what_the_loss_is_taken_over(recipe, run_cli, no_weights):
    code, text = run_cli("data", "preview", *recipe, "-n", "1", "--set", "data.loss_weight=0.5")
    assert code == 0, text
    assert "1. d.jsonl, completion (question, answer)" in text
    assert "Sort now⟦ yes<eos>⟧" in text or "Sort now⟦ yes <eos>⟧" in text or "Sort now ⟦yes <eos>⟧" in text
    assert "(4 tokens, 2 of prompt; loss on 2, at weight 0.5)" in text
    assert "topiclora data report --recipe" in text
    assert text.rstrip().endswith("--set data.loss_weight=0.5")  # the next command is about the same data


def test_preview_lists_tokens_and_says_what_is_too_long(recipe, run_cli, no_weights):
    templates = {"prompt": "{{ question }} now now now now now now", "completion": "{{ answer }}"}
    longer = [part for key, text in templates.items() for part in ("--set", f'data.{key}="{text}"')]
    code, text = run_cli("data", "preview", *recipe, *longer, "--tokens", "--set", "data.max_length=8")
    assert code == 0, text
    assert text.count("left out)") == 2
    assert "'<eos>'" in text
    code, text = run_cli("data", "preview", *recipe, "--set", "data.train_on_prompt=true", "-n", "1")
    assert "loss on 3)" in text


def test_report_counts_lengths_repetitions_and_what_is_missing(recipe, run_cli, no_weights):
    code, text = run_cli("data", "report", *recipe)
    assert code == 0, text
    assert "d.jsonl: read as completion (question, answer)." in text
    assert "left out for want of a value: answer 1" in text
    code, text = run_cli("data", "report", *recipe, "--json")
    (source,) = json.loads(text)
    assert (source["read"], source["used"], source["repeated"], source["missing"]) == (3, 2, 1, 1)
    assert source["lengths"] == {"median": 4, "percentile_95": 4, "longest": 4}


def test_a_run_with_a_graph_shows_topics_and_prior_beside(tiny_recipe, run_cli):
    code, text = run_cli("build-graph", "--recipe", tiny_recipe, "--out", "r")
    assert code == 0, text
    code, text = run_cli("data", "preview", "--run", "r", "-n", "2")
    assert code == 0, text
    assert text.count("(prior: expert ") == 2
    assert text.count("(about: ") == 2
    assert "topics: " in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "data.source=empty.jsonl"], "error: data.source 'empty.jsonl' is an empty file"),
        (["--set", "data.source=blank.jsonl"], "error: data.source 'blank.jsonl' has no examples"),
        (["--set", "data.source=d.jsonl", "--set", "model.name=./gone"], "tokenizer of model.name './gone' cannot be"),
        (
            ["--set", "data.source=d.jsonl", "--set", "data.max_length=8", "--set", "data.format=openai"],
            "not in the format",
        ),
    ],
)
def test_what_cannot_be_shown_is_one_line(tiny_recipe, run_cli, tmp_path, options, message):
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "blank.jsonl").write_text("\n\n")
    (tmp_path / "d.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    code, text = run_cli("data", "preview", "--recipe", tiny_recipe, *options)
    assert (code, text.count("\n")) == (2, 1), text
    assert message in text


def test_colour_takes_the_place_of_marks():
    tokens = [TokenView(5, "Q", 0.0), TokenView(6, " [b]A", 1.0)]
    view = ExampleView("s", ("sums",), [Passage("Q", 0.0), Passage(" [b]A", 1.0)], tokens, 1, too_long=False)
    shown = {}
    for coloured in (True, False):
        console = Console(force_terminal=coloured, color_system="standard" if coloured else None, width=80, record=True)
        with console.capture() as capture:
            console.print(example_text(view, 1, coloured=coloured))
            console.print(tokens_table(view, coloured=coloured))
        shown[coloured] = capture.get()
    assert "\x1b[1;32m [b]A" in shown[True]
    assert "⟦" not in shown[True]
    assert "Q⟦ [b]A⟧" in shown[False]
    assert "1. s  topics: sums" in shown[False]
