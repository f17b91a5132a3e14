"""What gates are averaged over and what is measured on: from all kinds of rows, and called what they are."""

import json

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.models.base import BaseModel
from topiclora_cli.recipe import build_recipe
from topiclora_cli.stages.samples import calibration_rows, examples_to_measure_on

TOPICS = ("a", "b", "c", "d")


@pytest.fixture(scope="module")
def base(tiny_model_dir):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    return BaseModel(model, AutoTokenizer.from_pretrained(tiny_model_dir), str(tiny_model_dir))


@pytest.fixture
def recipe(tmp_path):
    """Forty examples sorted by topic, each topic's in one stretch, and what the recipe's data section adds."""

    def make(gates="mean", **data):
        rows = [{"p": f"word {topic} {n}", "c": f" {n}", "topic": topic} for topic in TOPICS for n in range(10)]
        (tmp_path / "d.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
        section = {"source": str(tmp_path / "d.jsonl"), "prompt": "{{ p }}", "completion": "{{ c }}"}
        section |= {"topics": "topic", **data}
        merge = {"calibration": 8, "gates": gates}
        return build_recipe({"name": "x", "model": {"name": "x"}, "data": section, "merge": merge}, where="x")

    return make


def topics(rows):
    return sorted(topic for row in rows for topic in row.topics)


def test_gates_are_means_over_all_topics_of_sorted_data(recipe):
    assert topics(calibration_rows(recipe(), None)) == sorted(2 * TOPICS)
    assert topics(calibration_rows(recipe("topic:b"), None)) == ["b"] * 8
    with pytest.raises(TopicLoraError, match="carries the topic 'e'"):
        calibration_rows(recipe("topic:e"), None)


def test_training_examples_are_not_called_held_out(recipe, base):
    measured = examples_to_measure_on(recipe(), base, 8, None)
    assert topics(example.row for example in measured.examples) == sorted(2 * TOPICS)
    assert (measured.held_out, measured.kind) == (False, "training examples")
    of_b = examples_to_measure_on(recipe(), base, 8, None, topic="b")
    assert of_b.kind == "training examples of b"
    elsewhere = examples_to_measure_on(recipe(), base, 8, None, topic="e")
    assert (elsewhere.topic, elsewhere.kind) == (None, "training examples")


def test_examples_kept_out_of_training_are_held_out(recipe, base):
    kept_out = recipe(validation=12)
    measured = examples_to_measure_on(kept_out, base, 8, None)
    assert (len(measured.examples), measured.kind) == (8, "held-out examples")
    trained = {row.prompt for row in calibration_rows(kept_out.model_copy(), None)}
    assert trained.isdisjoint(example.row.prompt for example in measured.examples)


def test_embedded_families_have_a_split_of_their_own(base):
    recipe = build_recipe({"name": "x", "model": {"name": "x"}}, where="x")
    measured = examples_to_measure_on(recipe, base, 16, None)
    assert (len(measured.examples), measured.held_out) == (16, True)
    assert len({example.row.topics for example in measured.examples}) > 8
    topic = measured.examples[0].row.topics[0]
    about = examples_to_measure_on(recipe, base, 16, None, topic=topic)
    assert (len(about.examples), about.kind) == (16, f"held-out examples of {topic}")
