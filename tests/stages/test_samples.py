"""What gates are averaged over and what is measured on: from all kinds of rows, and called what they are."""

import json

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.models.base import BaseModel
from topiclora_cli.recipe import altered, build_recipe
from topiclora_cli.stages.samples import calibration_rows, examples_to_measure_on
from topiclora_cli.topics.encoder import HashEncoder
from topiclora_cli.topics.fit import fit_topic_graph
from topiclora_cli.topics.projector import Prompts, gather_training_pairs
from topiclora_cli.topics.settings import GraphSettings
from topiclora_cli.topics.taxonomy import Taxonomy, Topic

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


@pytest.fixture
def graph(tmp_path):
    """Folder of a topic graph that tells the topics of such prompts from their words."""
    encoder = HashEncoder()
    taxonomy = Taxonomy(tuple(Topic(topic, f"word {topic}") for topic in TOPICS), {"1": ("a", "b"), "2": ("c", "d")})
    texts = [(f"word {topic} {n}", (topic,)) for topic in TOPICS for n in range(10, 15)]
    prompts = Prompts(encoder.encode([text for text, _ in texts]), [topics for _, topics in texts])
    features, tasks = encoder.encode(taxonomy.texts), encoder.encode(taxonomy.task_texts)
    pairs = gather_training_pairs(taxonomy, features, tasks, prompts)
    settings = GraphSettings(num_experts=2, steps=5)
    fit_topic_graph(taxonomy, features, settings, encoder_id=encoder.id, pairs=pairs).save(tmp_path / "graph")
    return tmp_path / "graph"


def test_of_data_without_tags_the_graph_tells_what_prompts_are_about(recipe, base, graph):
    untagged, other = (
        altered(recipe(gates, topics=None), [("graph.encoder", "hash")], where="x") for gates in ("topic:b", "topic:e")
    )
    found = calibration_rows(untagged, graph)
    assert (topics(found), len({row.prompt for row in found})) == (["b"] * 8, 8)
    assert all(row.prompt.startswith("word b") for row in found)
    assert examples_to_measure_on(untagged, base, 8, graph, topic="b").kind == "training examples of b"
    with pytest.raises(TopicLoraError, match="carries the topic 'e'"):
        calibration_rows(other, graph)


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
