"""Scores that were kept: read back to the digit, of the same model and questions alone, after a kill at any task."""

import json
import shutil
from dataclasses import asdict, replace

import pytest
from transformers import AutoTokenizer

from topiclora_cli.evaluation import running
from topiclora_cli.evaluation.harness import EvalRequest
from topiclora_cli.evaluation.kept import KeptScores
from topiclora_cli.evaluation.loading import load_tasks
from topiclora_cli.evaluation.running import score_tasks


@pytest.fixture
def score(tiny_model, tiny_model_dir, task_folder, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)

    def call(*names, model="m", where="out", reads=True, load=None, tasks=task_folder, **settings):
        request = EvalRequest(tasks=names, include_path=str(tasks), **{"batch_size": 4, **settings})
        kept = KeptScores(tmp_path / "kept", model, reads) if model else None
        load = load or (lambda: (tiny_model, tokenizer))
        return score_tasks(load, request, load_tasks(request), label="m", output_path=tmp_path / where, kept=kept)

    return call


@pytest.fixture
def scored(monkeypatch):
    """The tasks that lm-eval was called for, in order."""
    names, run_task = [], running._run_task

    def note(lm, name, *rest):
        names.append(name)
        return run_task(lm, name, *rest)

    monkeypatch.setattr(running, "_run_task", note)
    return names


def never():
    raise AssertionError("the model was loaded")


def plain(results):
    """Every metric of every task as JSON."""
    scores = {
        name: {key: asdict(replace(metric, aggregate=None)) for key, metric in score.metrics.items()}
        for name, score in results.scores.items()
    }
    return json.dumps(scores, default=lambda number: number.item())


def test_what_was_kept_equals_what_was_scored_to_the_digit_without_loading_the_model(score, tmp_path):
    names = ("over", "pairs", "cloze", "prose", "free")
    plainly, first, second = score(*names, model=None), score(*names), score(*names, load=never, where="again")
    assert plain(plainly) == plain(first) == plain(second)
    for task in ("few", "pairs", "free"):
        kept = [sorted((tmp_path / where / "m").glob(f"samples_{task}_*"))[-1] for where in ("out", "again")]
        assert kept[0].read_text() == kept[1].read_text()


@pytest.mark.parametrize(
    "other",
    [{"model": "other"}, {"limit": 3}, {"num_fewshot": 1}, {"batch_size": 2}, {"bfloat16": True}, {"reads": False}],
    ids=str,
)
def test_another_model_or_way_of_asking_is_scored_anew(score, scored, other):
    score("few")
    score("few", "choice")
    assert scored == ["few", "choice"]
    score("few", **other)
    assert scored == ["few", "choice", "few"]


def test_changed_questions_and_changed_code_of_a_task_are_scored_anew(score, scored, task_folder, tmp_path):
    tasks = shutil.copytree(task_folder, tmp_path / "tasks")
    for path in tasks.glob("*.yaml"):
        path.write_text(path.read_text().replace(str(task_folder), str(tasks)))
    score("few")
    score("few", tasks=tasks)
    assert scored == ["few"]
    rows = (tasks / "few.jsonl").read_text()
    (tasks / "few.jsonl").write_text(rows.replace("0 is", "zero is", 1))
    score("few", tasks=tasks)
    (tasks / "functions.py").write_text((tasks / "functions.py").read_text() + "\n")
    score("few", tasks=tasks)
    assert scored == ["few"] * 3


def test_a_killed_evaluation_goes_on_with_the_next_task(score, scored, monkeypatch):
    def dies(lm, name, *rest):
        if name == "many":
            raise KeyboardInterrupt
        return run_task(lm, name, *rest)

    whole = score("few", "many", "cloze", model="whole")
    scored.clear()
    with monkeypatch.context() as patch:
        run_task = running._run_task
        patch.setattr(running, "_run_task", dies)
        with pytest.raises(KeyboardInterrupt):
            score("few", "many", "cloze")
    assert scored == ["few"]
    assert plain(score("few", "many", "cloze")) == plain(whole)
    assert scored == ["few", "many", "cloze"]


def test_a_damaged_file_is_scored_anew(score, scored, tmp_path):
    score("few")
    (path,) = (tmp_path / "kept").iterdir()
    path.write_bytes(path.read_bytes()[:50])
    score("few")
    score("few")
    assert scored == ["few", "few"]
