"""A run goes on only with what it was trained on before."""

import json
import os

import pytest

from tests.conftest import stop_at
from topiclora_cli.data import Encoded, Row
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.runs.files import read_json
from topiclora_cli.training.checkpoints import EXAMPLES, SETTINGS, refuse_other_settings, seal
from topiclora_cli.training.fingerprint import fingerprint

ROWS = [{"q": f"Sort {number}", "a": "yes"} for number in range(24)]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def encoded(*texts, prompt=1):
    return [Encoded(Row("", ""), list(text), prompt) for text in texts]


def test_other_tokens_masks_or_orders_are_other_examples():
    one = fingerprint(encoded([5, 6, 7], [8, 9]))
    assert one == fingerprint(encoded([5, 6, 7], [8, 9]))
    others = [encoded([5, 6, 7]), encoded([8, 9], [5, 6, 7]), encoded([5, 6, 7], [8, 9], prompt=2)]
    others += [encoded([5, 6], [7, 8, 9]), encoded([5, 6, 7], [8, 1])]
    assert one not in {fingerprint(other) for other in others}


def test_checkpoints_of_earlier_versions_do_not_know(tmp_path):
    seal(tmp_path, {"seed": 0})
    refuse_other_settings(tmp_path, {"seed": 0, EXAMPLES: "new"})


def test_a_checkpoint_of_a_version_without_a_key_says_so(tmp_path):
    seal(tmp_path, {"seed": 0, "adapter.r": 8, "data.sources": [], "model.upcycle": None})
    with pytest.raises(TopicLoraError, match=r"written by a version of topiclora that had no adapter\.router_init"):
        refuse_other_settings(tmp_path, {"seed": 0, "adapter.r": 8, "adapter.router_init": "normal"})
    # What a recipe newly says is no matter of versions.
    with pytest.raises(TopicLoraError, match=r"of another recipe: data\.sources"):
        refuse_other_settings(tmp_path, {"seed": 0, "adapter.r": 8, "data.sources.0.source": "x", "eval.tasks": ["a"]})


@pytest.mark.parametrize("streaming", [False, True])
def test_data_that_changed_since_the_checkpoint_are_refused(streaming, tiny_recipe, run_cli, tmp_path):
    path = tmp_path / "d.jsonl"
    write(path, ROWS)
    data = {"source": "d.jsonl", "prompt": "'{{ q }}'", "completion": "'{{ a }}'", "streaming": str(streaming).lower()}
    changes = ["adapter.method=lora", "adapter.target_modules=[q_proj]"]
    changes += [f"data.{key}={value}" for key, value in data.items()]
    code, text = run_cli("train", "--recipe", tiny_recipe, "--out", "r", *(f"--set={change}" for change in changes))
    assert code == 0, text
    stop_at(tmp_path / "r", 4)
    state = path.stat()
    write(path, [*ROWS[:-1], {"q": "Sort 23", "a": "no"}])
    code, text = run_cli("train", "--run", "r", "--resume")
    assert code == 2, text
    assert "checkpoint-4 was trained on other examples than there are now" in text
    write(path, ROWS)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    code, text = run_cli("train", "--run", "r", "--resume")
    assert (code, "Resuming from" in text) == (0, True), text
    assert EXAMPLES in read_json(tmp_path / "r/checkpoints/checkpoint-6" / SETTINGS, hint="")
