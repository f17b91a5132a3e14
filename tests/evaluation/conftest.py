"""Task files of one's own over a few local rows: each kind of lm-eval's output, groups with weights, and mistakes."""

import json
from pathlib import Path

import pytest
import yaml

CHOICES = ["odd", "even"]
ROWS = [{"q": f"{i} is", "a": CHOICES[i % 2 == 0], "text": f"{i} is {CHOICES[i % 2 == 0]}"} for i in range(12)]

CHOICE = {"output_type": "multiple_choice", "doc_to_choice": CHOICES, "doc_to_target": "a", "doc_to_text": "q"}
TASKS = {
    "choice": {**CHOICE, "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}]},
    "few": {**CHOICE, "metric_list": [{"metric": "acc"}], "rows": 3},
    "many": {**CHOICE, "metric_list": [{"metric": "acc"}], "doc_to_text": "{{q}} not"},
    "pairs": {
        **CHOICE,
        "metric_list": [{"metric": "mcc"}, {"metric": "f1"}],
        "doc_to_target": "{{['odd', 'even'].index(a)}}",
    },
    "cloze": {
        "output_type": "loglikelihood",
        "doc_to_text": "q",
        "doc_to_target": " {{a}}",
        "metric_list": [{"metric": "perplexity"}],
    },
    "prose": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "text",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "byte_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "free": {
        "output_type": "generate_until",
        "doc_to_text": "q",
        "doc_to_target": "a",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 3, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}, {"metric": "bleu"}],
        "filter_list": [
            {"name": name, "filter": [{"function": "regex", "regex_pattern": pattern}, {"function": "take_first"}]}
            for name, pattern in (("strict-match", "^(odd|even)$"), ("flexible-extract", "(\\w+)"))
        ],
    },
}
GROUPS = {"weighed": (["few", "many"], True), "plain": (["few", "many"], False), "over": (["weighed", "choice"], True)}
MISTAKES = {
    "breaks": ("raise_on_answers", CHOICE),
    "lazy": ("import_late", CHOICE),
    "harmful": (None, {**CHOICE, "unsafe_code": True}),
    # Its data is not to be had: whoever may not run its code need not be told.
    "harmful_elsewhere": (None, {**CHOICE, "unsafe_code": True, "dataset_path": "nobody/nothing"}),
    "unposed": (None, {**CHOICE, "doc_to_text": "{{ q.nothing.at_all }}"}),
}
FUNCTIONS = """
def raise_on_answers(doc, results):
    likelihoods = [answer for answer, _ in results]
    if min(likelihoods) < -1:
        raise IndexError("no such answer")
    return {"acc": 1.0}


def import_late(doc, results):
    import no_such_package

    return {"acc": 1.0}
"""


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    """Errors by a few draws, and no seconds spent on describing the machine."""
    monkeypatch.setattr("topiclora_cli.evaluation.running.BOOTSTRAPS", 20)
    monkeypatch.setattr("topiclora_cli.evaluation.results.RESAMPLES", 10)
    monkeypatch.setattr("topiclora_cli.evaluation.running._environment", dict)
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda _: None)


@pytest.fixture
def few_tasks(monkeypatch):
    """Unknown names are looked for among one's own tasks alone: lm-eval's thousands take many seconds to index."""
    monkeypatch.setattr("topiclora_cli.evaluation.task_index.stock_index", dict)


@pytest.fixture(scope="session")
def task_folder(tmp_path_factory) -> Path:
    """A folder of lm-eval task files, with a space and a # in its name."""
    folder = tmp_path_factory.mktemp("task") / "tasks #2"
    folder.mkdir()
    for name, task in TASKS.items():
        write_task(folder, name, **task)
    for name, (parts, by_size) in GROUPS.items():
        aggregate = [{"metric": "acc", "aggregation": "mean", "weight_by_size": by_size}]
        group = {"group": name, "task": parts, "aggregate_metric_list": aggregate}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(group))
    (folder / "functions.py").write_text(FUNCTIONS)
    for name, (function, task) in MISTAKES.items():
        write_task(folder, name, **{**task, "metric_list": [{"metric": "acc"}]}, process_results=function)
    broken = (folder / "lazy.yaml").read_text().replace("functions.import_late", "no_such_package.score")
    (folder / "missing.yaml").write_text(broken.replace("task: lazy", "task: missing"))
    return folder


def write_task(folder: Path, name: str, *, rows: int = len(ROWS), process_results: str | None = None, **task) -> None:
    """A task over the first `rows` rows; process_results: one of FUNCTIONS."""
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS[:rows]))
    config = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}}
    text = yaml.safe_dump({**config, "test_split": "test", **task})
    if process_results is not None:
        text += f"process_results: !function functions.{process_results}\n"
    (folder / f"{name}.yaml").write_text(text)
