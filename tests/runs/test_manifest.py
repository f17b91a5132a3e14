"""A manifest is one typed value, whichever version wrote its file."""

import json

import pytest

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.runs.results.manifest import plain_manifest, read_manifest, write_manifest
from topiclora_cli.runs.results.record import (
    EvalFacts,
    GraphFacts,
    GridFacts,
    Machine,
    Manifest,
    MergeFacts,
    PeakMemory,
    StageRecord,
)
from topiclora_cli.runs.results.training import SourceReport, TrainResult

LEFT_OUT = dict.fromkeys(("filtered", "missing", "empty", "duplicates", "contaminated", "held_out", "too_long"), 0)
SOURCE = {"label": "s", "weight": None, "read": 9, "used": 8, "tagged": 0, "mean_tokens": 5.0, **LEFT_OUT}
TRAINED = TrainResult(
    1,
    4,
    8,
    1234,
    567,
    final={"step": 4, "loss": 1.5},
    alarms=("Dead.",),
    data=(SourceReport(surplus=0, wanting={}, **SOURCE),),
)
RESULTS = {
    "graph": GraphFacts(5, 3, "0"),
    "train": TRAINED,
    "eval": EvalFacts("few", tuned=0.5, failed="t"),
    "merge": MergeFacts("usage", "usage", 0.5, 0.9),
    "ablation": GridFacts(2, 3),
}
# As 0.1 wrote it: no format, no machine, alarms among the last step's numbers, a source without what came later.
OLD = {
    "name": "x",
    "seed": 3,
    "created": "2026-01-02T03:04:05+00:00",
    "versions": {"python": "3.11"},
    "platform": "p",
    "cpus": 2,
    "git": None,
    "stages": {
        "graph": {"state": "failed", "started": "then", "seconds": 1.0},
        "train": {
            "state": "done",
            "started": "then",
            "seconds": 2.0,
            "processes": 1,
            "steps": 4,
            "examples": 8,
            "total_parameters": 1234,
            "activated_parameters": 567,
            "final": {"step": 4, "loss": 1.5, "alarms": {"dead": "Dead."}},
            "alarms": ["Dead."],
            "data": [SOURCE],
        },
        "eval": {"state": "done", "started": "then", "tuned": 0.5},
    },
}


def test_what_is_written_is_what_is_read(tmp_path):
    peak, where = PeakMemory(1.5), Machine("cpu", 2, 24.0)
    stages = {
        name: StageRecord("done", "then", 1.5, "r.yaml", {"seed": 3}, {"python": "3.11"}, where, peak, result=result)
        for name, result in RESULTS.items()
    }
    manifest = Manifest("x", 3, "then", {"python": "3.11", "torch": None}, "p", 2, stages=stages)
    write_manifest(tmp_path / "run.json", manifest)
    assert read_manifest(tmp_path / "run.json") == manifest
    assert json.loads((tmp_path / "run.json").read_text()) == json.loads(json.dumps(plain_manifest(manifest)))


def test_a_manifest_of_0_1_is_read_as_what_it_means_today(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(OLD))
    manifest = read_manifest(tmp_path / "run.json")
    assert (manifest.name, manifest.seed, manifest.got_nowhere, manifest.diverged) == ("x", 3, False, None)
    results = {name: record.result for name, record in manifest.stages.items()}
    assert results == {"graph": None, "train": TRAINED, "eval": EvalFacts("", tuned=0.5)}


@pytest.mark.parametrize("wrong", [{"steps": "many"}, {"data": [5]}, {"data": 5}, {"final": 5}, {"state": "over"}])
def test_a_damaged_record_is_one_line(wrong, tmp_path):
    stages = {"train": {**OLD["stages"]["train"], **wrong}}
    (tmp_path / "run.json").write_text(json.dumps({**OLD, "stages": stages}))
    with pytest.raises(TopicLoraError, match=rf"run\.json is damaged \(.*{next(iter(wrong))}"):
        read_manifest(tmp_path / "run.json")
