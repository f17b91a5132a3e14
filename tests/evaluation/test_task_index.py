"""lm-eval's index kept between calls, and the list of what there is: as lm-eval has it, and no task is loaded."""

import json
import shutil

import pytest
from lm_eval.tasks import TaskManager, manager

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.evaluation import task_index
from topiclora_cli.evaluation.listing import list_tasks
from topiclora_cli.evaluation.task_index import IndexedManager, stock_index


@pytest.fixture
def stock(task_folder, tmp_path, monkeypatch):
    """lm-eval with a few tasks of its own, and a cache that is empty; returns the folder of its tasks."""
    folder = shutil.copytree(task_folder, tmp_path / "stock")
    tagged = {"many": ["sizes"], "few": ["sizes", "few_tasks"]}
    for name, tags in tagged.items():
        with (folder / f"{name}.yaml").open("a") as file:
            file.write(f"tag: {json.dumps(tags)}\n")
    monkeypatch.setattr(manager, "__file__", str(folder / "manager.py"))
    monkeypatch.setattr(task_index, "STOCK", folder)
    monkeypatch.setenv("TOPICLORA_CACHE", str(tmp_path / "cache"))
    stock_index.cache_clear()
    yield folder
    stock_index.cache_clear()


def kept(include_path=(), monkeypatch=None):
    """The manager of a second call, which must not read a task file but those it is to include."""
    IndexedManager(include_path=[], include_defaults=True)
    stock_index.cache_clear()
    if monkeypatch is not None:
        monkeypatch.setattr(task_index, "TaskManager", None)
    return IndexedManager(include_path=list(include_path), include_defaults=True)


def test_what_is_kept_is_what_lm_eval_finds(stock, monkeypatch):
    stocks, ours = TaskManager(include_defaults=True), kept(monkeypatch=monkeypatch)
    for names in ("all_tasks", "all_subtasks", "all_groups", "all_tags"):
        assert getattr(ours, names) == getattr(stocks, names)
    for name in ("over", "sizes", "few"):
        theirs, found = stocks.load([name]), ours.load([name])
        assert theirs["group_map"] == found["group_map"]
        assert {n: t.dump_config() for n, t in theirs["tasks"].items()} == {
            n: t.dump_config() for n, t in found["tasks"].items()
        }


def test_a_task_file_that_changes_is_read_anew(stock):
    assert "fewer" not in kept().all_tasks
    (stock / "few.yaml").write_text((stock / "few.yaml").read_text().replace("task: few", "task: fewer"))
    stock_index.cache_clear()
    assert "fewer" in IndexedManager(include_path=[], include_defaults=True).all_tasks


def test_a_damaged_or_forbidden_cache_is_none(stock, tmp_path, monkeypatch):
    whole = kept().all_tasks
    (tmp_path / "cache/lm-eval/tasks.json").write_text('{"state": ')
    assert kept().all_tasks == whole
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TOPICLORA_CACHE", str(tmp_path / "file"))
    assert kept().all_tasks == whole


def test_ones_own_task_goes_before_lm_evals_of_the_same_name(stock, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    shutil.copy(stock / "few.yaml", own)
    assert kept([str(own)]).task_index["few"].yaml_path == own / "few.yaml"


def test_tasks_are_listed_with_their_data(stock, task_folder):
    listed = {task.name: task for task in list_tasks()}
    assert (listed["few"].kind, listed["few"].output, listed["few"].at_hand) == ("task", "multiple_choice", True)
    assert [data.name for data in listed["few"].data] == [str(task_folder / "few.jsonl")]
    assert (listed["over"].kind, len(listed["over"].data)) == ("group", 3)
    (ours,) = list_tasks("topiclora_syllogisms")
    assert (ours.data, ours.at_hand) == ((), True)
    assert (listed["sizes"].kind, len(listed["sizes"].data)) == ("tag", 2)
    (stock / "few.yaml").write_text((stock / "few.yaml").read_text().replace("few.jsonl", "gone.jsonl"))
    stock_index.cache_clear()
    assert [task.at_hand for task in list_tasks("few")] == [False, False]


def test_a_pattern_is_a_glob_or_a_part_of_a_name(stock):
    assert [task.name for task in list_tasks("m*")] == ["many", "missing"]
    assert {task.name for task in list_tasks("rose")} == {"prose"}
    with pytest.raises(TopicLoraError, match=r"no task 'prosa'. Did you mean 'prose'"):
        list_tasks("prosa")


def test_the_command_prints_a_table_or_json(stock, run_cli, task_folder):
    code, text = run_cli("eval", "tasks", "prose")
    assert code == 0, text
    assert next(line.split()[:2] for line in text.splitlines() if "prose" in line) == ["prose", "loglikelihood_rolling"]
    code, text = run_cli("eval", "tasks", "weighed", "--json")
    (found,) = json.loads(text)
    assert (found["kind"], found["at_hand"], len(found["data"])) == ("group", True, 2)
    (stock / "prose.yaml").write_text((stock / "prose.yaml").read_text().replace("prose.jsonl", "gone.jsonl"))
    stock_index.cache_clear()
    code, text = run_cli("eval", "tasks", "--at-hand", "pr*")
    assert (code, "prose" in text, "1 more needs data that is not at hand" in " ".join(text.split())) == (
        0,
        False,
        True,
    ), text


def test_options_of_an_evaluation_before_the_subcommand_are_refused(run_cli):
    code, text = run_cli("eval", "--limit", "3", "tasks")
    assert (code, "Put them after it" in text) == (2, True), text
