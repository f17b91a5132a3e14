"""Older checkpoints go when the newest is sealed, and not before."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from topiclora_cli.recipe import load_recipe
from topiclora_cli.training import callbacks
from topiclora_cli.training.arguments import training_arguments
from topiclora_cli.training.callbacks import SealCheckpoints
from topiclora_cli.training.checkpoints import is_sound, seal


@pytest.fixture
def checkpoint(tmp_path):
    """Make a checkpoint of a step, sealed unless told otherwise."""

    def make(step, *, sealed=True):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "weights").write_text(str(step))
        if sealed:
            seal(folder, {})
        return folder

    return make


def save(folder: Path, step, limit, best=None):
    state = SimpleNamespace(is_world_process_zero=True, global_step=step, best_model_checkpoint=best)
    SealCheckpoints({}, limit).on_save(SimpleNamespace(output_dir=str(folder)), state, None)


def left(folder):
    return sorted(int(path.name.removeprefix("checkpoint-")) for path in folder.iterdir())


def test_a_kill_before_the_seal_leaves_the_checkpoint_before(checkpoint, tmp_path, monkeypatch):
    checkpoint(2)
    checkpoint(4, sealed=False)
    monkeypatch.setattr(callbacks, "seal", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(tmp_path, 4, 1)
    assert is_sound(tmp_path / "checkpoint-2")


def test_transformers_leaves_the_rotation_to_us(tiny_recipe, tmp_path):
    recipe = load_recipe(str(tiny_recipe), ["train.save_total_limit=1"])
    assert training_arguments(recipe, tmp_path, 4, validates=False).save_total_limit is None


def test_as_many_as_asked_for_are_kept(checkpoint, tmp_path):
    for step in (2, 10, 8):
        checkpoint(step)
    checkpoint(12, sealed=False)
    save(tmp_path, 12, 2)
    assert left(tmp_path) == [10, 12]


def test_the_best_is_kept_beside_the_newest(checkpoint, tmp_path):
    for step in (2, 4):
        checkpoint(step)
    checkpoint(6, sealed=False)
    save(tmp_path, 6, 1, best=str(tmp_path / "checkpoint-2"))
    assert left(tmp_path) == [2, 6]


def test_a_damaged_later_one_does_not_push_out_the_newest(checkpoint, tmp_path):
    checkpoint(2)
    checkpoint(6, sealed=False)  # passed over by the resume that now saves step 4
    checkpoint(4, sealed=False)
    save(tmp_path, 4, 1)
    assert left(tmp_path) == [4]
