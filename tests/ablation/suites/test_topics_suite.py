"""Intricate topics: one key a cell, experts at one size, wrong tags where there are tags."""

import pytest

from topiclora_cli.ablation.grid import make_grid
from topiclora_cli.ablation.suites.topics import EXPERTS
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.stages.counted import count, open_skeleton


def test_every_variation_has_a_cell_and_all_are_asked_two_topics_and_scored_by_entropy(made):
    recipe, notes = made("topics", adapter__r=16)
    assert {
        *("lora", "kl_off", "topics=groups", "topics=all", "topics=induced", "shuffled"),
        *("experts=2", "share-experts=2", "experts=8", "share-experts=8", "experts=16", "share-experts=16"),
        *("tag_noise=0.25", "tag_noise=0.5", "tag_noise=1"),
    } <= set(recipe.ablation.cells), notes
    assert "topics=common" not in recipe.ablation.cells  # what the recipe has already
    assert recipe.ablation.cells["topics=induced"] == {"graph.taxonomy": "induced"}
    assert all(question.endswith("?") for question in recipe.ablation.about.values())
    for cell in make_grid(recipe):
        assert cell.recipe.eval.by_entropy
        assert cell.recipe.eval.probes == ["two-topics"]


def test_experts_share_one_budget_and_slope_with_a_fixed_number_or_a_fixed_share_active(made, tiny_model_dir):
    recipe, notes = made("topics", adapter__r=16, adapter__target_modules="all-linear")
    grid = {cell.name: cell.recipe.adapter for cell in make_grid(recipe)}
    skeleton = open_skeleton(str(tiny_model_dir), config_only=False, upcycle=None)
    own = count(grid["full"], skeleton)
    for number in EXPERTS:
        for name in (f"experts={number}", f"share-experts={number}"):
            if name not in grid:
                continue
            found = count(grid[name], skeleton)
            off = round(100 * (found.total / own.total - 1))
            assert abs(off) <= 5 or f"topics: {name} is {off:+} % off the recipe's parameters" in " ".join(notes), name
            assert found.first_step == pytest.approx(own.first_step, rel=0.02), name
            assert f"of rank {found.rank}, " in recipe.ablation.about[name]
    assert {grid[f"experts={number}"].top_k for number in (2, 8, 16)} == {2}
    assert [grid[f"share-experts={number}"].top_k for number in (2, 8, 16)] == [1, 4, 8]


def test_more_experts_than_topics_or_than_the_size_allows_are_left_out_with_a_note(made):
    recipe, notes = made("topics", adapter__num_experts=16, adapter__r=1)
    assert "topics: topics=groups is left out: there are 8 topics for 16 experts." in notes
    assert any(note.startswith("topics: experts=32 is left out: ") for note in notes)
    assert "experts=32" not in recipe.ablation.cells


def test_without_tags_there_is_no_wrong_one(made, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "1 + 1 =", "completion": "2"}\n')
    recipe, notes = made("topics", data={"source": str(rows), "format": "completion"})
    assert not [name for name in recipe.ablation.cells if name.startswith(("tag_noise", "shuffled"))]
    assert any("no tags of prompts teach this recipe's graph" in note for note in notes)


def test_a_recipe_that_finds_its_own_topics_is_asked_how_many(made):
    recipe, notes = made("topics", graph__taxonomy="induced", graph__induced_topics=16)
    assert [name for name in recipe.ablation.cells if name.startswith("topics=")] == ["topics=64"]
    assert any("experts=32 is left out" in note for note in notes)


def test_a_recipe_without_topics_has_nothing_to_vary(made):
    with pytest.raises(TopicLoraError, match="this recipe trains lora without any"):
        made("topics", adapter={"method": "lora"})


def test_quick_has_a_few_cells_of_each_kind(made):
    recipe, _ = made("topics", quick=True, adapter__r=16)
    cells = recipe.ablation.cells
    assert len(cells) <= 12
    assert recipe.eval.probe_questions == 1
    assert {name.split("=")[0] for name in cells} == {
        *("lora", "kl_off", "topics", "experts", "share-experts", "tag_noise", "shuffled")
    }
