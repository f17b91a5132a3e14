"""What a search may draw from: lists, and ranges of numbers as they are written."""

import math

import pytest

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import build_recipe, dump_recipe, read_recipe
from topiclora_cli.recipe.space import Range, axis, combinations, is_range

RATE = "1e-4..5e-3:log"


def recipe(**ablation):
    return build_recipe({"name": "x", "model": {"name": "m"}, "ablation": ablation}, where="here")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (RATE, Range(1e-4, 5e-3, log=True)),
        ("4..64:int:log", Range(4, 64, whole=True, log=True)),
        ("4..64:int", Range(4, 64, whole=True)),
        ("0..1", Range(0, 1)),
        ("-1.5..-.5", Range(-1.5, -0.5)),
    ],
)
def test_a_range_reads_as_it_is_written(text, meant):
    assert is_range(text)
    assert axis([text]) == meant


def test_words_and_numbers_are_no_ranges():
    assert not any(map(is_range, ["a..b", "../data", 1.5, None, "1e-4", "1..", True]))
    assert axis(["linear", "cosine"]) == ["linear", "cosine"]


def test_a_space_counts_its_points():
    assert combinations({"a": axis([1, 2, 3]), "b": axis(["4..8:int"])}) == 15
    assert combinations({"a": axis([1, 2]), "b": axis([RATE])}) == math.inf
    assert combinations({}) == 0


def test_a_range_alone_and_in_a_list_are_one_and_come_back_from_the_run_s_recipe():
    plain = recipe(search="optuna", tune={"train.learning_rate": RATE})
    assert plain.ablation == recipe(search="optuna", tune={"train.learning_rate": [RATE]}).ablation
    assert read_recipe(dump_recipe(plain).encode(), where="there").ablation == plain.ablation
    assert list(plain.ablation.all_cells) == ["full", "untuned"]


@pytest.mark.parametrize(
    ("ablation", "message"),
    [
        ({"tune": {"train.learning_rate": [RATE]}}, "is a range; list values, or draw with search: optuna"),
        ({"search": "optuna"}, "nothing to choose from: tune holds nothing"),
        ({"search": "optuna", "tune": {"adapter.r": [4]}}, "tune holds one value alone"),
        ({"search": "optuna", "tune": {"adapter.r": [4, 8, 16]}}, "each of the 3 combinations"),
        ({"search": "optuna", "tune": {"adapter.r": "4..9:int"}, "trials": 6}, "each of the 6 combinations"),
        (
            {"search": "optuna", "tune": {"adapter.r": ["4..9:int", 16]}},
            r"adapter\.r: 4\.\.9:int is a range, which",
        ),
        ({"search": "optuna", "tune": {"train.learning_rate": "5e-3..1e-4"}}, "has to be below the second"),
        ({"search": "optuna", "tune": {"train.learning_rate": "0..1:log"}}, "lies above 0"),
        ({"search": "optuna", "tune": {"adapter.r": "1.5..4:int"}}, "ends in whole numbers"),
        ({"search": "optuna", "tune": {"adapter.r": "1..4:it"}}, "no kind 'it'. Did you mean 'int'"),
        ({"search": "optuna", "tune": {"adapter.r": "4..640:int"}, "trials": 0}, r"ablation\.trials: .*equal to 2"),
        ({"search": "optuna", "tune": {"adapter.r": "4..640:int"}, "cells": {"untuned": {}}}, "give that cell another"),
        ({"search": "optua"}, r"ablation\.search: "),
    ],
)
def test_mistakes(ablation, message):
    with pytest.raises(TopicLoraError, match=message):
        recipe(**ablation)
