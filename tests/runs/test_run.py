"""Run directories: stages, locks, and writes that are whole or not there."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext

import pytest

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.runs.files import read_json, replacing, write_json, write_text
from topiclora_cli.runs.results.manifest import plain_manifest
from topiclora_cli.runs.results.metrics import LoggedStep, read_metrics
from topiclora_cli.runs.results.record import GraphFacts
from topiclora_cli.runs.run import RunDir, new_run_path


def make(path, name="demo"):
    return RunDir.create(path, recipe_yaml="name: demo\n", name=name, seed=0)


def test_a_stage_is_done_only_when_it_finished(tmp_path):
    run = make(tmp_path / "r")
    with run.running("graph") as running:
        assert run.stage("graph").state == "running"
        running.result = GraphFacts(topics=5, experts=3, sha256="0")
    assert run.is_done("graph")
    assert run.stage("graph").result == GraphFacts(topics=5, experts=3, sha256="0")
    with pytest.raises(RuntimeError), run.running("eval"):
        raise RuntimeError
    assert not run.is_done("eval")


def test_a_run_is_printed_by_its_folder(tmp_path):
    assert repr(RunDir.create(tmp_path / "r", recipe_yaml="", name="x", seed=0)) == f"RunDir({str(tmp_path / 'r')!r})"


def test_create_refuses_a_folder_in_use_and_keeps_it(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(TopicLoraError, match="not empty"):
        make(tmp_path)
    assert os.listdir(tmp_path) == ["note.txt"]


def test_a_run_that_got_nowhere_gives_up_its_place(tmp_path):
    run = make(tmp_path / "r")
    with pytest.raises(TopicLoraError), run.running("graph"):
        raise TopicLoraError("bad taxonomy")
    with make(tmp_path / "r").running("graph"):
        pass
    with pytest.raises(TopicLoraError, match="not empty"):
        make(tmp_path / "r")


def test_opening_what_is_no_run_names_the_nearest(tmp_path):
    make(tmp_path / "quick-1")
    with pytest.raises(TopicLoraError, match="'quick-1'"):
        RunDir(tmp_path / "quick-2")


def test_a_damaged_manifest_is_reported(tmp_path):
    run = make(tmp_path / "r")
    (run.path / "run.json").write_text('{"name": ')
    with pytest.raises(TopicLoraError, match=r"run\.json is not valid JSON"):
        RunDir(run.path)


@pytest.mark.parametrize("damaged", [b'{"step": ', b"\xff\xfe", b"5", b"null", b"[1]", b'{"loss": 1}'])
def test_rows_of_metrics_end_at_what_is_none(damaged, tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + damaged + b'\n{"step": 3}\n')
    assert read_metrics(path) == [LoggedStep({"step": 1})]


@pytest.mark.parametrize(
    "entries",
    [{"stages": []}, {"stages": None}, {"stages": {"train": None}}, {"stages": {"train": {}}}, {"created": 5}],
)
def test_a_manifest_of_another_shape_is_reported(entries, tmp_path):
    run = make(tmp_path / "r")
    write_json(run.path / "run.json", {**plain_manifest(run.manifest), **entries})
    with pytest.raises(TopicLoraError, match=rf"run\.json is damaged \({next(iter(entries))}"):
        RunDir(run.path)
    write_json(run.path / "run.json", [])
    with pytest.raises(TopicLoraError, match=r"run\.json is not a run manifest"):
        RunDir(run.path)


def test_lock_keeps_another_process_out_and_dies_with_its_owner(tmp_path):
    run = make(tmp_path / "r")
    code = (
        "import sys, time; from topiclora_cli.runs.run import RunDir\n"
        f"with RunDir({str(run.path)!r}).lock(): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(TopicLoraError, match="in use"), run.lock():
        pass
    holder.kill()
    holder.wait()
    with run.lock():
        pass


def test_runs_that_start_within_one_second_have_folders_of_their_own(tmp_path):
    paths = [new_run_path(tmp_path, "x") for _ in range(3)]
    assert len(set(paths)) == 3
    assert [make(path).path for path in paths] == paths


def test_a_run_that_has_just_been_made_is_nobody_else_s(tmp_path):
    run = make(tmp_path / "r", "first")
    for held in (nullcontext, run.lock):
        with held(), pytest.raises(TopicLoraError, match=r"not empty|in use by another"):
            make(tmp_path / "r", "second")
    assert run.manifest.name == "first"


@pytest.mark.parametrize("error", [TopicLoraError, RuntimeError])
def test_a_run_whose_first_command_fails_before_any_stage_leaves_nothing(error, tmp_path):
    with pytest.raises(error, match="bad data"), make(tmp_path / "r").lock():
        raise error("bad data")
    assert os.listdir(tmp_path) == []


def test_a_run_of_an_earlier_command_stays_when_a_later_one_fails(tmp_path):
    make(tmp_path / "r")
    with pytest.raises(TopicLoraError, match="bad data"), RunDir(tmp_path / "r").lock():
        raise TopicLoraError("bad data")
    assert not RunDir(tmp_path / "r").manifest.got_nowhere


def test_a_run_that_an_earlier_version_marked_gives_up_its_place(tmp_path):
    make(tmp_path / "r").update(got_nowhere=True)
    assert make(tmp_path / "r", "second").manifest.name == "second"


@pytest.mark.parametrize("made", ["checkpoints/checkpoint-2", "ablation/full-s0/adapter", "ablation/results.json"])
def test_a_failed_run_that_holds_results_keeps_its_place(made, tmp_path):
    run = make(tmp_path / "r")
    (run.path / made).mkdir(parents=True)
    with pytest.raises(TopicLoraError, match="full disk"), run.lock(), run.running("ablation"):
        raise TopicLoraError("full disk")
    assert not run.manifest.got_nowhere
    with pytest.raises(TopicLoraError, match="not empty"):
        make(tmp_path / "r")


def test_whoever_waits_for_a_run_that_goes_is_told(tmp_path):
    run = make(tmp_path / "r")
    shutil.rmtree(run.path)
    with pytest.raises(TopicLoraError, match="is gone"), run.lock():
        pass
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for make_it in (make, lambda path: new_run_path(path, "x"), lambda path: write_text(path / "f", "")):
        with pytest.raises(TopicLoraError, match=r"folder .* cannot be made: .*file is a file"):
            make_it(tmp_path / "file" / "x")
    with pytest.raises(TopicLoraError, match="not empty"):
        make(tmp_path / "file")


def _replace(folder, content):
    with replacing(folder) as temporary:
        temporary.mkdir()
        (temporary / "w").write_text(content)


def test_a_folder_may_be_called_as_it_likes(tmp_path):
    for text in ("first", "second"):
        with replacing(tmp_path / "old") as temporary:
            temporary.mkdir()
            (temporary / "w").write_text(text)
    assert (tmp_path / "old" / "w").read_text() == "second"


@pytest.mark.parametrize("fails", [2, (2, 3)])
def test_a_folder_survives_a_rename_that_fails(fails, tmp_path, monkeypatch):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "w").write_text("old")
    rename, calls = os.replace, itertools.count(1)

    def flaky(source, target):
        if next(calls) in (fails if isinstance(fails, tuple) else (fails,)):
            raise OSError("no space left")
        rename(source, target)

    monkeypatch.setattr("topiclora_cli.runs.files.os.replace", flaky)
    with pytest.raises(OSError, match="no space"):
        _replace(folder, "new")
    left = [path.read_text() for path in tmp_path.rglob("w")]
    assert left == ["old"] if fails == 2 else "old" in left
    assert folder.is_dir() == (fails == 2)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "f.txt"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text(f"half {1 / 0}")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["f.txt"]


def test_folders_are_replaced_too(tmp_path):
    for content in ("one", "two"):
        with replacing(tmp_path / "d") as temporary:
            temporary.mkdir()
            (temporary / "x").write_text(content)
    assert (tmp_path / "d" / "x").read_text() == "two"
    assert os.listdir(tmp_path) == ["d"]


def test_read_json_carries_the_hint(tmp_path):
    with pytest.raises(TopicLoraError, match=r"does not exist\. Do this"):
        read_json(tmp_path / "x.json", hint="Do this.")
    (tmp_path / "x.json").write_text(json.dumps([1]))
    assert read_json(tmp_path / "x.json", hint="") == [1]


def test_an_imported_adapter_lies_beside_the_manifest_until_one_is_trained(tmp_path):
    run = make(tmp_path / "r")
    assert run.adapter == run.path / "adapter"
    with pytest.raises(TopicLoraError, match="has no adapter yet"):
        run.require("adapter", made_by="train")
    (run.path / "adapter_config.json").write_text("{}")
    assert run.adapter == run.require("adapter", made_by="train") == run.path
    (run.path / "adapter").mkdir()
    assert run.adapter == run.path / "adapter"
