"""The recipes of published protocols: they resolve under every baseline, and train on nothing that they score."""

import pytest
from jinja2 import Environment

from topiclora_cli.recipe import bundled_recipes, load_recipe
from topiclora_cli.topics.taxonomy import load_taxonomy
from topiclora_cli.topics.taxonomy_file import read

PROTOCOLS = ("hydralora-dolly-mmlu", "hydralora-gsm8k", "hydralora-flan-bbh", "commonsense170k", "math50k")
ALL = (*PROTOCOLS, "bigbench-smollm2")


@pytest.mark.parametrize("name", ALL)
def test_its_head_says_how_to_run_it_on_what_and_whence(name):
    head = "".join(line for line in bundled_recipes()[name].read_text().splitlines(True) if line.startswith("#"))
    assert head.startswith(f"# topiclora train --recipe {name}")
    for word in ("--dry-run", "GiB", "Source: ", "torchrun", "train.fsdp=true", "Untested", "zero_stage 3"):
        assert word in head


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("method", ["hydralora", "lora", "mixlora", "loramoe"])
def test_it_resolves_under_other_methods(name, method):
    recipe = load_recipe(name, [f"adapter.method={method}"])
    assert recipe.adapter.method == method
    # What a recipe says of the prior holds for every method that has routers.
    assert recipe.loss.kl.weight == (0.5 if name == "bigbench-smollm2" and method != "lora" else 0)
    assert recipe.train.batch_size * recipe.train.gradient_accumulation == load_recipe(name).train.batch_size * (
        load_recipe(name).train.gradient_accumulation
    )


def test_hydralora_is_the_reference_s():
    adapter = load_recipe("hydralora-gsm8k", ["adapter.method=hydralora"]).adapter
    assert (adapter.shared_a, adapter.num_experts, adapter.r, adapter.lora_alpha) == (True, 4, 4, 32)
    assert (adapter.top_k, adapter.target_modules, adapter.router) == (None, "feed-forward", "linear")


def test_no_recipe_that_scores_big_bench_hard_learns_from_it():
    for name in bundled_recipes():
        recipe = load_recipe(name)
        if any(task.startswith("bbh") for task in recipe.eval.tasks):
            assert "bbh" in recipe.graph.exclude_tasks
            assert recipe.data.decontaminate


def test_big_bench_hard_is_in_neither_the_graph_nor_the_examples():
    recipe = load_recipe("bigbench-smollm2")
    _, content = read("bigbench")
    hard = content["task_sets"]["bbh"]
    keep = Environment(autoescape=False).compile_expression(recipe.data.filter)
    assert not any(keep(task=task) for task in hard)
    others = set(content["tasks"]) - set(hard)
    assert all(keep(task=task) for task in others)
    assert not set(hard) & set(load_taxonomy("bigbench", exclude_tasks=recipe.graph.exclude_tasks).tasks)
