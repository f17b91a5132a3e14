"""What is read from the file is what was made, whoever else writes it or damages it meanwhile."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch

from topiclora_cli.runs.stored import stored_tensors


def made() -> dict[str, torch.Tensor]:
    return {"x": torch.arange(100_000.0), "y": torch.tensor([True])}


def same(tensors: dict[str, torch.Tensor]) -> bool:
    return tensors.keys() == made().keys() and all(torch.equal(tensors[name], made()[name]) for name in made())


def unmakable() -> dict[str, torch.Tensor]:
    raise AssertionError("made again")


def test_made_once_and_then_read(tmp_path):
    path = tmp_path / "new folder" / "tensors.safetensors"
    assert same(stored_tensors(path, made))
    assert same(stored_tensors(path, unmakable))
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"", lambda data: b"\xff" * len(data)])
def test_a_damaged_file_is_made_again(tmp_path, damage):
    path = tmp_path / "tensors.safetensors"
    stored_tensors(path, made)
    path.write_bytes(damage(path.read_bytes()))
    assert same(stored_tensors(path, made))
    assert same(stored_tensors(path, unmakable))


def test_where_nothing_can_be_written_the_tensors_come_all_the_same(tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert same(stored_tensors(tmp_path / "file" / "tensors.safetensors", made))
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_failure_to_make_them_leaves_nothing(tmp_path):
    with pytest.raises(AssertionError, match="made again"):
        stored_tensors(tmp_path / "tensors.safetensors", unmakable)
    assert not list(tmp_path.iterdir())


def read_and_remove(path) -> bool:
    whole = True
    for _ in range(200):
        whole &= same(stored_tensors(path, made))
        path.unlink(missing_ok=True)
    return whole


def test_processes_that_write_at_once_never_read_half_a_file(tmp_path):
    path = tmp_path / "tensors.safetensors"
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        assert list(pool.map(read_and_remove, [path, path])) == [True, True]
    assert same(stored_tensors(path, made))
    assert list(tmp_path.iterdir()) == [path]
