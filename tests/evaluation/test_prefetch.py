"""`--prefetch` with a hub that is played by two functions: no test has a network, and none is reached for."""

import json
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
import pytest

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.evaluation.harness import EvalRequest
from topiclora_cli.evaluation.loading import load_tasks
from topiclora_cli.evaluation.local_data import FETCHED
from topiclora_cli.evaluation.prefetch import CONVERTED, prefetch

ROWS = "".join(json.dumps({"q": f"{n} is", "a": n % 2}) + "\n" for n in range(4))
CHOICE = {"output_type": "multiple_choice", "doc_to_text": "q", "doc_to_choice": ["odd", "even"], "doc_to_target": "a"}
HUB = {
    ("org/parts", None): ["README.md", "one/test.jsonl", "two/test.jsonl", "three/test.jsonl"],
    ("org/whole", None): ["README.md", "test.jsonl", "extra.txt"],
    ("org/scripted", None): ["README.md", "scripted.py"],
    ("org/scripted", CONVERTED): ["one/test/0000.jsonl"],
}


@pytest.fixture
def hub(monkeypatch):
    """The stub: lists HUB's files and writes them; `calls` are the snapshots that were asked for."""
    calls = []

    def list_repo_files(self, name, *, repo_type, revision=None):
        assert repo_type == "dataset"
        return HUB[name, revision]

    def snapshot_download(name, *, repo_type, revision, local_dir, allow_patterns):
        calls.append((name, revision, allow_patterns))
        for file in HUB[name, revision]:
            if allow_patterns is None or any(fnmatch(file, each) for each in allow_patterns):
                path = Path(local_dir) / file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(ROWS if path.suffix == ".jsonl" else "")
        (Path(local_dir) / FETCHED).mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", list_repo_files)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return calls


@pytest.fixture
def folder(tmp_path, few_tasks):
    folder = tmp_path / "tasks"
    folder.mkdir()
    for name, data in {
        "one": ("org/parts", "one"),
        "two": ("org/parts", "two"),
        "whole": ("org/whole", None),
        "scripted": ("org/scripted", "one"),
    }.items():
        settings = {"task": name, **CHOICE, "dataset_path": data[0], "dataset_name": data[1], "test_split": "test"}
        (folder / f"{name}.yaml").write_text(json.dumps({**settings, "metric_list": [{"metric": "acc"}]}))
    return folder


def request(folder, root, *tasks):
    return EvalRequest(tasks=tasks, include_path=str(folder), datasets_dir=str(root))


def test_what_was_fetched_is_what_the_tasks_then_read(hub, folder, tmp_path):
    asked, said = request(folder, tmp_path / "hub", "one", "two", "whole", "scripted"), []
    copies = prefetch(asked, said.append)
    assert copies == [tmp_path / "hub/org" / name for name in ("parts", "scripted", "whole")]
    assert hub == [
        ("org/parts", None, ["README.md", "one/*", "two/*"]),
        ("org/scripted", CONVERTED, ["README.md", "one/*"]),
        ("org/whole", None, None),
    ]
    assert not (tmp_path / "hub/org/parts/three").exists()
    assert {len(task.eval_docs) for task in load_tasks(asked).tasks.values()} == {4}
    prefetch(asked, said.append)
    assert len(hub) == 3
    assert said[-3:] == ["org/parts is at hand.", "org/scripted is at hand.", "org/whole is at hand."]


def test_a_copy_is_made_whole_where_a_configuration_is_missing(hub, folder, tmp_path):
    prefetch(request(folder, tmp_path / "hub", "one"), print)
    prefetch(request(folder, tmp_path / "hub", "two"), print)
    assert [patterns for _, _, patterns in hub] == [["README.md", "one/*"], ["README.md", "two/*"]]
    assert (tmp_path / "hub/org/parts/one/test.jsonl").is_file()
    assert (tmp_path / "hub/org/parts/two/test.jsonl").is_file()
    assert [path.name for path in (tmp_path / "hub/org").iterdir()] == ["parts"]


def test_a_fetch_that_is_cut_off_leaves_nothing_that_is_read(hub, folder, tmp_path, monkeypatch):
    fetch = huggingface_hub.snapshot_download

    def cut_off(name, **settings):
        fetch(name, **settings)
        raise ConnectionError("the line is dead")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", cut_off)
    asked = request(folder, tmp_path / "hub", "whole")
    with pytest.raises(TopicLoraError, match="org/whole cannot be fetched: ConnectionError: the line is dead"):
        prefetch(asked, print)
    with pytest.raises(TopicLoraError, match="hub/org/whole is not there"):
        load_tasks(asked)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert prefetch(asked, print) == [tmp_path / "hub/org/whole"]


def test_the_command_needs_no_run(hub, folder, tmp_path, run_cli):
    given = ["--tasks", "one,whole", "--include-path", folder]
    code, text = run_cli("eval", "--prefetch", "--datasets-dir", "hub", *given)
    assert code == 0, text
    assert "At hand in hub: 2 data sets." in text
    assert (tmp_path / "hub/org/whole/test.jsonl").is_file()
    code, text = run_cli("eval", "--prefetch", *given)
    assert (code, "Add --datasets-dir DIR" in text) == (2, True), text


def test_mistakes(hub, folder, tmp_path):
    with pytest.raises(TopicLoraError, match="--prefetch fills a folder, and none is named"):
        prefetch(EvalRequest(tasks=["one"], include_path=str(folder)), print)
    (tmp_path / "hub/org/parts").mkdir(parents=True)
    with pytest.raises(TopicLoraError, match="parts lacks one, and it is no copy that was fetched from a hub"):
        prefetch(request(folder, tmp_path / "hub", "one"), print)
    with pytest.raises(TopicLoraError, match=r"no task 'onne'\. Did you mean 'one'"):
        prefetch(request(folder, tmp_path / "hub", "onne"), print)
