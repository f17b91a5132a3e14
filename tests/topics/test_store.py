"""A graph comes back bit for bit, or not at all."""

import hashlib
import json
import os
from dataclasses import fields, replace

import pytest
import torch

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.topics import store
from topiclora_cli.topics.store import META_FILE, TENSOR_FILE, TopicGraph


@pytest.fixture
def saved(small_graph, tmp_path):
    return small_graph.save(tmp_path / "graph")


def test_round_trip_is_bit_equal(small_graph, saved):
    loaded = TopicGraph.load(saved)
    for entry in fields(TopicGraph):
        ours, theirs = getattr(small_graph, entry.name), getattr(loaded, entry.name)
        if isinstance(ours, torch.Tensor):
            assert torch.equal(ours, theirs), entry.name
            assert ours.dtype == theirs.dtype
        else:
            assert ours == theirs, entry.name
    assert loaded.sha256 == small_graph.sha256 == json.loads((saved / META_FILE).read_text())["sha256"]
    assert sorted(os.listdir(saved)) == [META_FILE, TENSOR_FILE]


def test_sizes(small_graph):
    assert (small_graph.num_topics, small_graph.num_experts, small_graph.encoder_width) == (6, 2, 64)


def test_names_and_numbers_both_count_for_the_hash(small_graph):
    assert replace(small_graph, topics=("x", *small_graph.topics[1:])).sha256 != small_graph.sha256
    assert replace(small_graph, expert_vectors=-small_graph.expert_vectors).sha256 != small_graph.sha256


def test_saving_over_an_older_graph(small_graph, saved):
    other = replace(small_graph, seed=99)
    other.save(saved)
    assert TopicGraph.load(saved).sha256 == other.sha256


def test_a_save_cut_short_is_noticed(small_graph, saved, monkeypatch):
    before = (saved / META_FILE).read_bytes()
    real = os.replace

    def full_disk(source, target):
        if str(target).endswith(META_FILE):
            raise OSError("disk full")
        real(source, target)

    monkeypatch.setattr("topiclora_cli.runs.files.os.replace", full_disk)
    with pytest.raises(OSError, match="disk full"):
        replace(small_graph, topic_vectors=-small_graph.topic_vectors).save(saved)
    assert (saved / META_FILE).read_bytes() == before
    assert sorted(os.listdir(saved)) == [META_FILE, TENSOR_FILE]
    with pytest.raises(TopicLoraError, match="damaged"):
        TopicGraph.load(saved)


def test_truncated_tensors(saved):
    content = (saved / TENSOR_FILE).read_bytes()
    (saved / TENSOR_FILE).write_bytes(content[: len(content) // 2])
    with pytest.raises(TopicLoraError, match="damaged") as caught:
        TopicGraph.load(saved)
    assert caught.value.hint


def test_one_flipped_bit(saved):
    content = bytearray((saved / TENSOR_FILE).read_bytes())
    content[-1] ^= 1
    (saved / TENSOR_FILE).write_bytes(bytes(content))
    with pytest.raises(TopicLoraError, match="damaged"):
        TopicGraph.load(saved)


def edit(folder, *, sign=True, **changes):
    meta = json.loads((folder / META_FILE).read_text())
    meta.update(changes)
    if sign:
        meta["sha256"] = store._fingerprint(meta)
    (folder / META_FILE).write_text(json.dumps(meta))


def test_truncated_names(saved):
    content = (saved / META_FILE).read_text()
    (saved / META_FILE).write_text(content[: len(content) // 2])
    with pytest.raises(TopicLoraError, match="cannot be read"):
        TopicGraph.load(saved)


def test_altered_names(saved):
    edit(saved, sign=False, seed=7)
    with pytest.raises(TopicLoraError, match="altered"):
        TopicGraph.load(saved)


def test_other_versions(saved):
    edit(saved, format_version=2)
    with pytest.raises(TopicLoraError, match="format 2, not 1"):
        TopicGraph.load(saved)
    (saved / META_FILE).write_text("[]")
    with pytest.raises(TopicLoraError, match="format None"):
        TopicGraph.load(saved)


@pytest.mark.parametrize("name", [META_FILE, TENSOR_FILE])
def test_missing_files(saved, name):
    (saved / name).unlink()
    with pytest.raises(TopicLoraError, match=f"{name} is missing"):
        TopicGraph.load(saved)


def test_tensors_that_are_no_safetensors(saved):
    (saved / TENSOR_FILE).write_bytes(b"not tensors")
    edit(saved, tensors_sha256=hashlib.sha256(b"not tensors").hexdigest())
    with pytest.raises(TopicLoraError, match="no valid topic graph"):
        TopicGraph.load(saved)


def test_names_that_do_not_fit_the_tensors(saved):
    edit(saved, topics=["only one"])
    with pytest.raises(TopicLoraError, match="shape"):
        TopicGraph.load(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"assignment": torch.full((6, 2), 0.7)}, "do not sum to 1"),
        ({"edge_index": torch.full((2, 4), 9), "edge_weight": torch.ones(4)}, "outside the topics"),
        ({"topic_vectors": torch.full((6, 16), torch.nan)}, "not finite"),
        ({"expert_vectors": torch.zeros(2)}, "no matrix"),
        ({"projector_bias": torch.zeros(5)}, "projector_bias has shape"),
        ({"groups": ()}, "descriptions or groups"),
    ],
)
def test_inconsistent_graphs_are_not_loaded(small_graph, tmp_path, change, message):
    replace(small_graph, **change).save(tmp_path)
    with pytest.raises(TopicLoraError, match=message):
        TopicGraph.load(tmp_path)
