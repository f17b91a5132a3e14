"""The runs in a folder, damaged ones among them, and which one counts as the latest."""

import pytest

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.runs.files import write_json
from topiclora_cli.runs.listing import latest_run, list_runs, sound_and_damaged
from topiclora_cli.runs.run import RunDir


def make(path, name="demo"):
    return RunDir.create(path, recipe_yaml="name: demo\n", name=name, seed=0)


def fail(run, stage):
    with pytest.raises(TopicLoraError, match="bad data"), run.lock(), run.running(stage):
        raise TopicLoraError("bad data")


def test_the_latest_of_several_runs(tmp_path):
    with pytest.raises(TopicLoraError, match=r"There is no run under .*quickstart"):
        latest_run(tmp_path / "none")
    make(tmp_path / "a", "one"), make(tmp_path / "b", "two")
    assert [run.path.name for run in list_runs(tmp_path)] == ["a", "b"]
    assert latest_run(tmp_path).path.name == "b"
    assert latest_run(tmp_path, name="one").path.name == "a"
    with pytest.raises(TopicLoraError, match=r"no run of 'three' .* to resume.* without --resume"):
        latest_run(tmp_path, name="three")


@pytest.mark.parametrize("content", ['{"name": ', "[]", '{"stages": []}', '{"stages": {}, "format": 99}'])
def test_a_damaged_run_is_named_and_keeps_no_other_from_being_listed(content, tmp_path):
    make(tmp_path / "a"), make(tmp_path / "b")
    (tmp_path / "b" / "run.json").write_text(content)
    runs, damaged = sound_and_damaged(tmp_path)
    assert [run.path.name for run in runs] == ["a"]
    assert [path.name for path in damaged] == ["b"]
    assert str(tmp_path / "b" / "run.json") in damaged[tmp_path / "b"]
    assert latest_run(tmp_path).path.name == "a"
    with pytest.raises(TopicLoraError, match=r"is not a run directory.*'b'"):
        RunDir(tmp_path / "bb")


def test_nothing_but_damaged_runs_is_said(tmp_path):
    write_json(tmp_path / "a" / "run.json", [])
    with pytest.raises(TopicLoraError, match=r"no run under .* but damaged ones.*runs list"):
        latest_run(tmp_path)


@pytest.mark.parametrize("stage", ["graph", "train"])
def test_a_failed_start_is_not_the_latest(stage, tmp_path):
    make(tmp_path / "a")
    failed = make(tmp_path / "b")
    fail(failed, stage)
    assert latest_run(tmp_path).path.name == "a"
    # Until another command gets somewhere with it.
    with RunDir(failed.path).lock(), failed.running(stage):
        pass
    assert latest_run(tmp_path).path.name == "b"


def test_a_start_that_failed_after_its_graph_is_not_the_latest_but_stays(tmp_path):
    make(tmp_path / "a")
    run = make(tmp_path / "b")
    with run.running("graph"):
        pass
    with pytest.raises(TopicLoraError, match="bad data"), run.lock():
        raise TopicLoraError("bad data")
    assert latest_run(tmp_path).path.name == "a"
    assert RunDir(run.path).is_done("graph")


def test_a_trained_run_stays_the_latest_when_a_later_stage_fails(tmp_path):
    make(tmp_path / "a")
    run = make(tmp_path / "b")
    with run.running("train"):
        (run.path / "adapter").mkdir()
    fail(run, "eval")
    assert latest_run(tmp_path).path.name == "b"
