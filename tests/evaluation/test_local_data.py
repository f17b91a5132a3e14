"""Hub data sets read from copies on disk: which folder a name means, configurations, splits, and what is not there."""

import json

import datasets
import pytest

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.evaluation.data_needed import data_needed, data_of
from topiclora_cli.evaluation.harness import EvalRequest, make_task_manager
from topiclora_cli.evaluation.loading import load_tasks
from topiclora_cli.evaluation.local_data import local_datasets

CHOICE = {
    **{"output_type": "multiple_choice", "doc_to_text": "q", "doc_to_choice": ["odd", "even"], "doc_to_target": "a"},
    "metric_list": [{"metric": "acc"}],
}


def rows(name, count=3):
    return [{"q": f"{name} {n}", "a": n % 2} for n in range(count)]


def write(path, name, count=3):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        datasets.Dataset.from_list(rows(name, count)).to_parquet(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows(name, count)))


@pytest.fixture
def copies(tmp_path, monkeypatch):
    """One with a README, one of plain folders, one made by save_to_disk, one beside its old script."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    root = tmp_path / "hub"
    for config in ("one", "two"):
        write(root / f"org/listed/{config}/test.parquet", config)
        write(root / f"org/folders/{config}/test.jsonl", config)
        write(root / f"org/folders/{config}/train.jsonl", config)
        write(root / f"org/scripted/{config}/test/0000.parquet", config)
    (root / "org/scripted/scripted.py").write_text("raise SystemExit")
    (root / "org/listed/README.md").write_text(
        "---\nconfigs:\n"
        "- config_name: one\n  default: true\n  data_files: [{split: test, path: one/test.parquet}]\n"
        "- config_name: two\n  data_files: [{split: test, path: two/test.parquet}]\n---\n"
    )
    write(root / "org/plain/test.jsonl", "plain")
    splits = {"test": datasets.Dataset.from_list(rows("saved"))}
    datasets.DatasetDict(splits).save_to_disk(root / "org/saved")
    return root


@pytest.mark.parametrize(
    ("name", "config", "first"),
    [
        ("org/listed", "two", "two 0"),
        ("org/listed", None, "one 0"),
        ("org/folders", "two", "two 0"),
        ("org/scripted", "two", "two 0"),
        ("org/plain", None, "plain 0"),
        ("org/saved", None, "saved 0"),
        ("plain", None, "plain 0"),
    ],
)
def test_a_copy_is_read_with_its_configurations_and_splits(name, config, first, copies):
    with local_datasets(copies):
        assert datasets.load_dataset(name, config)["test"][0]["q"] == first
        assert datasets.load_dataset(name, config, split="test", trust_remote_code=True)[0]["q"] == first


def test_old_names_of_script_data_sets_mean_what_lies_under_the_new_one(copies):
    write(copies / "cais/mmlu/law/test.jsonl", "law")
    with local_datasets(copies):
        assert datasets.load_dataset("hails/mmlu_no_train", "law")["test"][0]["q"] == "law 0"


def test_without_a_folder_and_after_the_block_nothing_is_redirected(copies, tmp_path):
    stock = datasets.load_dataset
    with local_datasets(None):
        assert datasets.load_dataset is stock
    with local_datasets(copies):
        kept = datasets.load_dataset
        local = str(copies / "org/plain/test.jsonl")
        assert kept("json", data_files={"test": local})["test"][0]["q"] == "plain 0"
    assert datasets.load_dataset is stock
    with pytest.raises(Exception, match="org/plain"):
        kept("org/plain")


@pytest.mark.parametrize(("name", "config"), [("org/listed", "one"), ("org/folders", "one"), ("org/saved", None)])
def test_a_damaged_copy_is_named(name, config, copies):
    for file in (copies / name).rglob("*"):
        if file.suffix in (".parquet", ".jsonl", ".arrow"):
            file.write_text("junk")
    with local_datasets(copies), pytest.raises(TopicLoraError, match=f"The data set in .*{name}.* cannot be read: .+"):
        datasets.load_dataset(name, config)


@pytest.mark.parametrize(
    ("name", "config", "wanted"),
    [
        ("org/none", None, "hub/org/none is not there"),
        ("hails/mmlu_no_train", "law", "hub/cais/mmlu is not there"),
        ("org/listed", "three", "hub/org/listed/three is not there. Of it there are: one, two"),
        ("org/scripted", "three", "hub/org/scripted/three is not there"),
    ],
)
def test_what_is_not_at_hand_names_the_folder_that_was_wanted(name, config, wanted, copies):
    with local_datasets(copies), pytest.raises(TopicLoraError, match=wanted) as error:
        datasets.load_dataset(name, config)
    assert "--prefetch" in error.value.hint
    with (
        pytest.raises(TopicLoraError, match=r"eval\.datasets_dir 'nowhere' is not a folder"),
        local_datasets("nowhere"),
    ):
        pass


def task_file(folder, name, **settings):
    (folder / f"{name}.yaml").write_text(json.dumps({"task": name, **CHOICE, **settings}))


def request(folder, copies, *tasks, **settings):
    return EvalRequest(tasks=tasks, include_path=str(folder), datasets_dir=str(copies), **settings)


@pytest.fixture
def folder(tmp_path, few_tasks):
    folder = tmp_path / "tasks"
    folder.mkdir()
    for name, settings in {
        "listed": {"dataset_path": "org/listed", "dataset_name": "two", "test_split": "test"},
        "shots": {"dataset_path": "org/listed", "test_split": "test", "training_split": "train"},
        "unsplit": {"dataset_path": "org/listed", "validation_split": "validation"},
        "gone": {"dataset_path": "org/gone", "test_split": "test"},
    }.items():
        task_file(folder, name, **settings)
    (folder / "all.yaml").write_text(json.dumps({"group": "all", "task": ["listed", "shots"]}))
    return folder


def test_tasks_ask_the_questions_of_the_copy(folder, copies):
    tasks = load_tasks(request(folder, copies, "all")).tasks
    assert tasks["listed"].eval_docs[0]["q"] == "two 0"
    assert len(tasks["shots"].eval_docs) == 3


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("gone", {}, "hub/org/gone is not there"),
        ("unsplit", {}, "hub/org/listed has no split 'validation'.* It has: test"),
        ("shots", {"num_fewshot": 2}, "hub/org/listed has no split 'train', of which the 2 shots of 'shots' are drawn"),
    ],
)
def test_a_task_whose_data_is_not_at_hand_is_one_line(task, settings, message, folder, copies):
    with pytest.raises(TopicLoraError, match=message):
        load_tasks(request(folder, copies, task, **settings))


def test_what_a_task_needs_is_told_without_loading_it(folder, copies):
    manager = make_task_manager(request(folder, copies, "all"))
    needed = data_needed(manager, "all", copies)
    assert [(each.name, each.config, each.at_hand) for each in needed] == [
        ("org/listed", "two", True),
        ("org/listed", None, True),
    ]
    (gone,) = data_needed(manager, "gone", copies)
    assert (gone.at_hand, gone.place) == (False, copies / "org/gone")
    assert not data_of({"dataset_path": "org/listed", "dataset_name": "three"}, copies).at_hand
    assert not data_of({"dataset_path": "org/listed"}).at_hand  # the machine's caches do not have it
    assert data_needed(manager, "topiclora_syllogisms", copies) == []
    file = str(copies / "org/plain/test.jsonl")
    for files, at_hand in ({"test": file}, True), ({"test": [file, "none.jsonl"]}, False):
        assert data_of({"dataset_path": "json", "dataset_kwargs": {"data_files": files}}).at_hand is at_hand
