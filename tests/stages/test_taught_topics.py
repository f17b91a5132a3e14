"""What rows' topics teach the graph: at the level of groups, and under label noise."""

from collections import Counter

import pytest
import torch

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import dump_recipe, load_recipe
from topiclora_cli.runs.progress import LoggedProgress
from topiclora_cli.runs.run import RunDir
from topiclora_cli.stages.build_graph import build_graph
from topiclora_cli.stages.inputs import tagged_prompts
from topiclora_cli.stages.training_data import named_taxonomy, training_data
from topiclora_cli.topics.encoder import HashEncoder


@pytest.fixture
def taught(tiny_recipe):
    """The prompts that teach a recipe's graph, with changes."""

    def make(*changes):
        recipe = load_recipe(str(tiny_recipe), changes)
        return tagged_prompts(recipe, HashEncoder(64), named_taxonomy(recipe), training_data(recipe).train)

    return make


def test_noise_deals_topics_out_anew_to_the_same_prompts(taught):
    plain, noisy = taught(), taught("graph.tag_noise=1.0")
    assert torch.equal(plain.embeddings, noisy.embeddings)
    assert Counter(plain.tags) == Counter(noisy.tags)
    assert sum(old != new for old, new in zip(plain.tags, noisy.tags, strict=True)) > 0.75 * len(plain.tags)
    half = taught("graph.tag_noise=0.5")
    assert 0.3 < sum(old != new for old, new in zip(plain.tags, half.tags, strict=True)) / len(plain.tags) <= 0.5


def test_groups_are_taught_by_the_same_prompts(taught, bigbench):
    plain, groups = taught(), taught("graph.level=groups")
    assert torch.equal(plain.embeddings, groups.embeddings)
    group_of = {topic.name: topic.group for topic in bigbench.topics}
    assert [set(tags) for tags in groups.tags] == [{group_of[tag] for tag in tags} for tags in plain.tags]


@pytest.mark.parametrize("level", ["groups", "keywords"])
def test_a_graph_of_another_grain_is_built_and_reported(level, tiny_recipe, tmp_path):
    changes = ["graph.level=groups"] if level == "groups" else ["graph.min_tasks=0"]
    recipe = load_recipe(str(tiny_recipe), changes)
    run = RunDir.create(tmp_path / "run", recipe_yaml=dump_recipe(recipe), name="x", seed=0)
    result = build_graph(recipe, run, LoggedProgress())
    assert result.graph.num_topics == {"groups": 8, "keywords": 75}[level]
    assert result.report.experts == 4


def test_more_experts_than_groups_are_told_what_to_do(tiny_recipe, tmp_path):
    recipe = load_recipe(str(tiny_recipe), ["graph.level=groups", "adapter.num_experts=9"])
    run = RunDir.create(tmp_path / "run", recipe_yaml=dump_recipe(recipe), name="x", seed=0)
    with pytest.raises(TopicLoraError, match="exceeds the 8 topics") as told:
        build_graph(recipe, run, LoggedProgress())
    assert "set graph.level to topics" in told.value.hint


def test_noise_that_nothing_reads_is_refused(tiny_recipe):
    for change, why in (("graph.taxonomy=induced", "reads no tags"), ("graph.tagged_prompts=0", "reads no tags")):
        with pytest.raises(TopicLoraError, match=why):
            load_recipe(str(tiny_recipe), [change, "graph.tag_noise=0.5"])
    with pytest.raises(TopicLoraError, match="no groups"):
        load_recipe(str(tiny_recipe), ["graph.taxonomy=induced", "graph.level=groups"])
