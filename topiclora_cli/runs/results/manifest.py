"""A run's manifest as a file: a stage's record holds what came out beside how it went, each under its own name."""

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.runs.files import read_json, write_json
from topiclora_cli.runs.results.files import FORMAT, decoded, version_of
from topiclora_cli.runs.results.record import RESULT_OF, Manifest, StageRecord, StageResult

_HINT = "The run is damaged; start a new one with --out."


def read_manifest(path: Path) -> Manifest:
    """The manifest in the file; raises TopicLoraError where it is missing, damaged or of a newer topiclora."""
    values = read_json(path, hint=_HINT)
    if not isinstance(values, Mapping):
        raise TopicLoraError(f"{path} is not a run manifest.", "Start a new run with --out.")
    version_of(values, path)
    manifest = decoded({**values, "stages": _without_results(values.get("stages"))}, Manifest, path, _HINT)
    found = {name: _result(name, record, values["stages"][name], path) for name, record in manifest.stages.items()}
    stages = {name: replace(record, result=found[name]) for name, record in manifest.stages.items()}
    return replace(manifest, stages=stages)


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Replace the file with the manifest, which is of today's format from then on, in one step."""
    write_json(path, plain_manifest(manifest))


def plain_manifest(manifest: Manifest) -> Mapping[str, Any]:
    """The manifest as its file has it: plain values for JSON."""
    stages = {name: _plain_record(record) for name, record in manifest.stages.items()}
    return {"format": FORMAT, **_said(replace(manifest, stages={})), "stages": stages}


def _plain_record(record: StageRecord) -> dict[str, Any]:
    result = _said(record.result) if record.result is not None else {}
    return {**_said(replace(record, result=None)), **result}


def _said(value: Manifest | StageRecord | StageResult) -> dict[str, Any]:
    return {name: each for name, each in asdict(value).items() if each is not None}


def _without_results(stages: Any) -> Any:
    # What came out is told apart from the rest below, by the stage's name.
    if not isinstance(stages, Mapping):
        return stages
    return {
        name: {**record, "result": None} if isinstance(record, Mapping) else record for name, record in stages.items()
    }


def _result(name: str, record: StageRecord, values: Mapping[str, Any], path: Path) -> StageResult | None:
    kind = RESULT_OF.get(name)
    if kind is None or record.state != "done" or not values.keys() & {each.name for each in fields(kind)}:
        return None
    return decoded(_of_today(name, values), kind, path, _HINT)


def _of_today(name: str, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """What an earlier version did not name, or left among a logged step's numbers."""
    if name != "train":
        return {"name": "", **values}
    upgraded = dict(values)
    for key in ("final", "best"):
        if isinstance(row := values.get(key), Mapping):
            upgraded[key] = {each: value for each, value in row.items() if each != "alarms"}
    return upgraded
