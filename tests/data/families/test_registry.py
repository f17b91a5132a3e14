"""Taking examples out of the table: deterministic, split for good, and clear about what it cannot do."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

from tests.conftest import DATA, needs_data
from topiclora_cli.data.families import FAMILIES, SPLITS, Example, generate, mixture
from topiclora_cli.data.families.example import split_of
from topiclora_cli.errors import TopicLoraError

ROOT = Path(__file__).resolve().parents[3]


def test_sixteen_families_half_of_them_with_choices() -> None:
    kinds = Counter(family.kind for family in FAMILIES.values())
    assert kinds == {"choice": 8, "free": 8}
    assert all(name == family.name for name, family in FAMILIES.items())


@pytest.mark.parametrize("name", FAMILIES)
def test_same_seed_same_examples_and_a_longer_list_begins_with_the_shorter(name: str) -> None:
    assert generate(name, "train", 30, seed=3)[:10] == generate(name, "train", 10, seed=3)
    assert generate(name, "train", 10, seed=3) != generate(name, "train", 10, seed=4)


def test_examples_do_not_depend_on_the_hash_seed_of_the_process() -> None:
    script = "from topiclora_cli.data.families import mixture; print([e.prompt for e in mixture('test', 2)])"
    runs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert runs == {f"{[e.prompt for e in mixture('test', 2)]}\n"}


@pytest.mark.parametrize("name", FAMILIES)
def test_splits_share_no_problem_and_no_prompt_whatever_the_seed(name: str) -> None:
    drawn = {split: [e for seed in (0, 1) for e in generate(name, split, 60, seed)] for split in SPLITS}
    for one, two in combinations(SPLITS, 2):
        assert not {e.key for e in drawn[one]} & {e.key for e in drawn[two]}
        assert not {e.prompt for e in drawn[one]} & {e.prompt for e in drawn[two]}


@pytest.mark.parametrize("name", FAMILIES)
def test_no_problem_and_no_prompt_twice(name: str) -> None:
    examples = generate(name, "train", 500)
    assert len({e.key for e in examples}) == len({e.prompt for e in examples}) == 500


@pytest.mark.parametrize("name", FAMILIES)
def test_there_are_examples_enough_for_training_and_for_testing(name: str) -> None:
    assert len(generate(name, "train", 1000)) == 1000
    assert len(generate(name, "test", 300)) == 300


def test_about_seventy_ten_and_twenty_percent() -> None:
    shares = Counter(split_of("any", str(number)) for number in range(10_000))
    assert [round(shares[split] / 10_000, 1) for split in SPLITS] == [0.7, 0.1, 0.2]


def test_a_split_never_moves() -> None:
    """Pinned: moving a problem to another split would let old checkpoints be tested on what they were trained on."""
    assert [split_of("linear_equations", f"x + {b} = 20") for b in range(1, 9)] == [
        "train",
        "train",
        "train",
        "train",
        "test",
        "train",
        "train",
        "train",
    ]


def test_mixture_takes_as_many_of_each_family_and_shuffles_them() -> None:
    examples = mixture("validation", 5, seed=1)
    assert Counter(e.task for e in examples) == dict.fromkeys(FAMILIES, 5)
    assert len({e.task for e in examples[:16]}) > 5
    assert examples == mixture("validation", 5, seed=1)
    assert {e.task for e in mixture("test", 3, families=["feelings", "code_tracing"])} == {"feelings", "code_tracing"}


def test_an_unknown_family_names_the_nearest() -> None:
    with pytest.raises(TopicLoraError, match=r"'feeling'.*'feelings'"):
        generate("feeling", "train", 1)
    with pytest.raises(TopicLoraError, match="word_sorting"):
        mixture("train", 1, families=["word_sort"])


def test_an_unknown_split_and_a_negative_number_are_refused() -> None:
    with pytest.raises(TopicLoraError, match=r"'valid'.*'validation'"):
        generate("feelings", "valid", 1)
    with pytest.raises(TopicLoraError, match="-1"):
        generate("feelings", "train", -1)


def test_a_family_that_runs_out_says_how_many_it_had() -> None:
    with pytest.raises(TopicLoraError, match=r"'unit_conversion' could supply \d{3} distinct validation") as caught:
        generate("unit_conversion", "validation", 5000)
    most = int(re.findall(r"at most (\d+)", caught.value.hint)[0])
    assert len(generate("unit_conversion", "validation", most)) == most


@needs_data
def test_topics_are_nodes_of_the_bigbench_graph() -> None:
    table = (DATA / "bigbench" / "tasks.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in table.splitlines()]
    counts = Counter(topic for row in rows for topic in row["topic_keywords"])
    for family in FAMILIES.values():
        assert family.topics
        assert list(family.topics) == sorted(set(family.topics))
        assert all(counts[topic] >= 3 for topic in family.topics), family.name


def test_every_example_carries_its_family(examples: dict[str, list[Example]]) -> None:
    for name, drawn in examples.items():
        assert all(e.task == name and e.topics == FAMILIES[name].topics for e in drawn)
