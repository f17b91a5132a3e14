"""How many cells run at once, and a word where they hardly fit beside one another."""

import pytest

from topiclora_cli.ablation.grid import Cell
from topiclora_cli.ablation.launch import how_many
from topiclora_cli.ablation.launchers import room
from topiclora_cli.ablation.launchers.room import warn_of_crowding
from topiclora_cli.ablation.options import LaunchOptions
from topiclora_cli.ablation.order import longest_first
from topiclora_cli.recipe import build_recipe


class Said:
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


@pytest.fixture
def machine(monkeypatch):
    """Cells of 3 GiB on a machine of 8 cores, 9 GiB and two GPUs of 10 GiB."""
    monkeypatch.setattr(room, "cell_gib", lambda *_: 3.0)
    monkeypatch.setattr(room, "free_gib", lambda: 9.0)
    monkeypatch.setattr(room, "gpu_gib", lambda: [10.0, 10.0])
    monkeypatch.setattr(room, "cores", lambda: 8)


def cell(name, *, seed=0, tuned=(), trained=True, **train):
    recipe = build_recipe({"name": "x", "model": {"name": "m"}, "train": train}, where="here")
    return Cell(name, seed, recipe, tuned=tuned, trained=trained)


@pytest.mark.parametrize(
    ("options", "number"),
    [
        ({}, 1),
        ({"jobs": 3}, 3),
        ({"jobs": 300}, 20),
        ({"gpus": (0, 1)}, 2),
        ({"gpus": (0, 1), "jobs": 6}, 6),
        ({"jobs": "auto"}, 2),
        ({"jobs": "auto", "gpus": (4, 5, 6)}, 3),
    ],
)
def test_how_many_cells_run_at_once(options, number, machine):
    grid = [Cell("full", seed, None) for seed in range(20)]
    assert how_many(grid, Said(), LaunchOptions(**options)) == number


@pytest.mark.parametrize(
    ("jobs", "gpus", "words"),
    [
        (9, (), None),
        (2, (0, 1), None),
        (6, (0, 1), None),
        (7, (0, 1), "4 cells of about 3.0 GiB share 10.0 GiB of a GPU; one that runs out of it fails alone. 3 at once"),
    ],
)
def test_cells_that_hardly_fit_are_told(jobs, gpus, words, machine):
    said = Said()
    warn_of_crowding([], jobs, gpus, said)
    assert len(said.lines) == (words is not None)
    assert words is None or words in said.lines[0]


def test_the_longest_come_first_and_what_others_wait_for_before_them():
    cells = [
        cell("base", trained=False),
        cell("short", max_steps=10),
        cell("long", max_steps=90),
        cell("tuned", max_steps=20, tuned=(("train.learning_rate", 0.1),)),
    ]
    assert [each.name for each in longest_first(cells, {}, 0)] == ["tuned", "long", "short", "base"]
    # What a name has taken is known better by its clock than by its steps.
    assert [each.name for each in longest_first(cells[1:3], {"short": 60.0, "long": 50.0}, 0)] == ["short", "long"]
