"""An epoch is every example, however many there are and however a step is cut."""

import json
from collections import Counter

import pytest

from topiclora_cli.recipe import load_recipe
from topiclora_cli.training import arguments
from topiclora_cli.training.arguments import count_steps
from topiclora_cli.training.collate import Collator


def steps(monkeypatch, examples, *, epochs=1.0, batch=16, accumulation=1, processes=1):
    monkeypatch.setattr(arguments, "process_count", lambda: processes)
    settings = {"epochs": epochs, "batch_size": batch, "gradient_accumulation": accumulation, "max_steps": "null"}
    recipe = load_recipe("quickstart", [f"train.{key}={value}" for key, value in settings.items()])
    return count_steps(recipe, examples)


@pytest.mark.parametrize(
    ("cut", "expected"),
    [
        ({}, 7),
        ({"batch": 4, "accumulation": 4}, 7),
        ({"batch": 2, "accumulation": 4, "processes": 2}, 7),
        ({"epochs": 3.0}, 21),
        ({"epochs": 0.5}, 4),
        ({"epochs": 2.2, "batch": 10}, 22),
        ({"batch": 128}, 1),
        ({"batch": 100}, 1),
    ],
)
def test_the_last_step_of_an_epoch_takes_what_is_left(monkeypatch, cut, expected):
    assert steps(monkeypatch, 100, **cut) == expected


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 16},
        {"batch_size": 5, "gradient_accumulation": 3, "epochs": 2},
        {"batch_size": 16, "group_by_length": False},
        {"batch_size": 16, "packing": True},
    ],
)
def test_every_example_is_trained_on_once_an_epoch(settings, tiny_recipe, run_cli, tmp_path, monkeypatch):
    rows = [{"q": "Sort " * (number % 7 + 1), "a": "yes " * number} for number in range(100)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    seen = Counter()
    original = Collator.__call__

    def watched(self, rows):
        seen.update(len(row["input_ids"]) - row["prompt_length"] for row in rows)
        return original(self, rows)

    monkeypatch.setattr(Collator, "__call__", watched)
    settings = {"max_steps": "null", "save_steps": 100, **settings}
    data = {"source": "d.jsonl", "prompt": "'{{ q }}'", "completion": "'x {{ a }}'"}
    changes = ["adapter.method=lora", "adapter.target_modules=[q_proj]"]
    changes += [f"train.{key}={str(value).lower()}" for key, value in settings.items()]
    changes += [f"data.{key}={value}" for key, value in data.items()]
    code, text = run_cli("train", "--recipe", tiny_recipe, "--out", "r", *(f"--set={change}" for change in changes))
    assert code == 0, text
    assert len(seen) == 100
    assert set(seen.values()) == {settings.get("epochs", 1)}
