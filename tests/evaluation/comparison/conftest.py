"""Folders as lm-eval writes them, by hand."""

import json
from pathlib import Path

import pytest

DATE = "2026-01-02T03-04-05.678901"


@pytest.fixture
def lm_eval_folder(tmp_path):
    """Write a folder of lm-eval's: task -> metric -> what each question adds; more: keys of every sample."""

    def write(name: str, tasks, *, start=0, prompt="p", target="t", results=None, samples=lambda i: {}) -> str:
        folder = Path(tmp_path, name)
        folder.mkdir(parents=True)
        facts = {"versions": dict.fromkeys(tasks, 1), "n-shot": dict.fromkeys(tasks, 0)}
        ways = {task: {metric: metric != "choice_loss" for metric in scores} for task, scores in tasks.items()}
        for task, scores in tasks.items():
            rows = [
                {"doc_hash": f"{task}{start + i}", "prompt_hash": f"{prompt}{start + i}", "target_hash": target}
                | {"filter": "none", "metrics": list(scores), **dict(zip(scores, values, strict=True))}
                | samples(start + i)
                for i, values in enumerate(zip(*scores.values(), strict=True))
            ]
            lines = "".join(json.dumps(row) + "\n" for row in reversed(rows))
            (folder / f"samples_{task}_{DATE}.jsonl").write_text(lines)
        (folder / f"results_{DATE}.json").write_text(json.dumps({**facts, "higher_is_better": ways, **(results or {})}))
        return str(folder)

    return write
