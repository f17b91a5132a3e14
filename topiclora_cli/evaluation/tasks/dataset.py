"""Loads an embedded task family for lm-evaluation-harness; the test questions are the same for every user and run."""

from typing import Any

import datasets

from topiclora_cli.data.families import generate

TEST_SEED = 20260122
TEST_SIZE = 100


def load(family: str, **_: Any) -> dict[str, datasets.Dataset]:
    """The test split of a family with columns prompt, choices, answer and topics."""
    rows = [
        {"prompt": e.prompt, "choices": list(e.choices), "answer": e.answer, "topics": list(e.topics)}
        for e in generate(family, "test", TEST_SIZE, seed=TEST_SEED)
    ]
    return {"test": datasets.Dataset.from_list(rows)}
