"""What a copy says of itself comes with the scores."""

import json
from types import SimpleNamespace

import datasets

from tests.evaluation.test_command import trained  # noqa: F401 -- a fixture
from topiclora_cli.evaluation.copy_notes import copy_notes
from topiclora_cli.evaluation.local_data import FETCHED, local_datasets

ABOUT = "---\nlicense: mit\n---\n\nOffline copy.\n\nChoices lost a space\n\n# Card\n\nMuch more.\n"


def test_a_copy_that_differs_is_quoted_and_one_of_the_hub_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for name, readme in {"rebuilt": ABOUT, "silent": "# Card\n\nMuch.\n", "fetched": ABOUT}.items():
        folder = tmp_path / "hub/org" / name
        folder.mkdir(parents=True)
        (folder / "README.md").write_text(readme)
        (folder / "test.jsonl").write_text(json.dumps({"q": "?"}) + "\n")
    (tmp_path / "hub/org/fetched" / FETCHED).mkdir(parents=True)
    with local_datasets(tmp_path / "hub"):
        loaded = {name: datasets.load_dataset(f"org/{name}") for name in ("rebuilt", "silent", "fetched")}
    _ = loaded["silent"]["train"]
    tasks = {f"{name}_{n}": SimpleNamespace(dataset=splits) for name, splits in loaded.items() for n in range(5)}
    assert copy_notes(SimpleNamespace(tasks=tasks)) == [
        "rebuilt_0, rebuilt_1, rebuilt_2 and 2 more was asked from a copy of org/rebuilt. "
        "Offline copy. Choices lost a space.",
        "silent_0, silent_1, silent_2 and 2 more was asked from a copy of org/silent. "
        "It does not say where it is from. It has no split 'train'.",
    ]


def test_notes_stand_below_the_scores_of_one_run_and_of_several_models(
    trained,  # noqa: F811
    run_cli,
    tmp_path,
    monkeypatch,
    few_tasks,
):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "hub/org/rebuilt").mkdir(parents=True)
    (tmp_path / "hub/org/rebuilt/README.md").write_text(ABOUT)
    (tmp_path / "hub/org/rebuilt/test.jsonl").write_text(json.dumps({"q": "?", "a": 0}) + "\n")
    task = {"task": "odd", "dataset_path": "org/rebuilt", "test_split": "test", "output_type": "multiple_choice"}
    task |= {"doc_to_text": "q", "doc_to_choice": ["a", "b"], "doc_to_target": "a", "metric_list": [{"metric": "acc"}]}
    (tmp_path / "odd.yaml").write_text(json.dumps(task))
    given = ["--tasks", "odd.yaml", "--datasets-dir", "hub"]
    for which in (["--run", trained, "--name", "noted"], ["--model", trained, "--model", "base", "--name", "two"]):
        code, text = run_cli("eval", *which, *given)
        assert code == 0, text
        assert "odd was asked from a copy of org/rebuilt. Offline copy. Choices lost a space." in " ".join(text.split())
    assert "org/rebuilt" in json.loads((trained / "eval/noted/summary.json").read_text())["notes"][0]
