"""What a new topic's training takes over from the run, and what is of the old data alone."""

import pytest

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import build_recipe
from topiclora_cli.stages.growing_data import growing_recipe, grown_recipe, shrunk_recipe


@pytest.mark.parametrize(("held_out", "kept"), [(250, None), (0.1, 0.1)])
def test_examples_counted_on_the_old_data_are_not_held_out_of_the_new(held_out, kept):
    data = {"source": "old.jsonl", "filter": "task == 'x'", "max_length": 64, "validation": held_out}
    recipe = build_recipe({"name": "r", "model": {"name": "m"}, "data": data}, where="test")
    growing = growing_recipe(recipe, "law", "new.jsonl", 9, [])
    assert (growing.data.source, growing.data.filter, growing.data.topics) == ("new.jsonl", None, ["law"])
    assert (growing.data.validation, growing.data.max_length) == (kept, 64)
    assert growing_recipe(recipe, "law", "new.jsonl", 9, [("data.validation", 20)]).data.validation == 20


def test_questions_are_put_by_the_old_data_s_template_again():
    data = {"source": "old.jsonl", "prompt": "{{ input }}", "completion": "{{ target }}"}
    said = {"name": "r", "model": {"name": "m"}, "data": data, "eval": {"questions": {"source": "asked.jsonl"}}}
    recipe = build_recipe(said, where="test")
    growing = growing_recipe(recipe, "law", "new.jsonl", 9, [])
    assert growing.eval.questions is None
    grown = grown_recipe(recipe, growing)
    assert grown.eval.questions == recipe.eval.questions
    assert [source.source for source in grown.data.all_sources] == ["old.jsonl", "new.jsonl"]
    assert grown.data.all_sources[0].prompt == "{{ input }}"


def test_the_examples_of_a_topic_go_with_it():
    data = {"sources": [{"source": "old.jsonl"}, {"source": "laws.jsonl", "topics": ["law", "history"]}]}
    recipe = build_recipe({"name": "r", "model": {"name": "m"}, "data": data}, where="test")
    grown = grown_recipe(recipe, growing_recipe(recipe, "law", "new.jsonl", 9, []))
    assert len(grown.data.sources) == 3
    shrunk = shrunk_recipe(grown, "law", 8)
    assert [(source.source, source.topics) for source in shrunk.data.sources] == [
        ("old.jsonl", None),
        ("laws.jsonl", ["history"]),
    ]
    assert shrunk_recipe(shrunk, "geography", 8) == shrunk


@pytest.mark.parametrize("key", ["adapter.r", "model.name", "graph.level", "seed"])
def test_what_the_new_expert_is_not_trained_by_is_refused(key):
    recipe = build_recipe({"name": "r", "model": {"name": "m"}, "data": {"source": "old.jsonl"}}, where="test")
    with pytest.raises(TopicLoraError, match=f"{key} stays as the run has it"):
        growing_recipe(recipe, "law", "new.jsonl", 9, [("train.max_steps", 2), (key, 3)])


def test_a_source_of_several_topics_loses_the_one_alone():
    data = {"sources": [{"source": "old.jsonl"}, {"source": "laws.jsonl", "topics": ["law", "history"]}]}
    recipe = build_recipe({"name": "r", "model": {"name": "m"}, "data": data}, where="test")
    assert [source.topics for source in shrunk_recipe(recipe, "law", 8).data.sources] == [None, ["history"]]


@pytest.mark.parametrize("single", [{"source": "a.jsonl"}, {"sources": [{"source": "a.jsonl", "topics": ["law"]}]}])
def test_a_run_keeps_the_only_source_that_it_has(single):
    data = {**single, "topics": ["law"]} if "source" in single else single
    recipe = build_recipe({"name": "r", "model": {"name": "m"}, "data": data}, where="test")
    assert shrunk_recipe(recipe, "law", 8).data == recipe.data
