"""A run says which format it is in, and a stage with what, on what and at what cost it ran."""

import json
import platform
import sys

import pytest

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.runs import machine
from topiclora_cli.runs.results.files import FORMAT
from topiclora_cli.runs.run import MANIFEST, RunDir


@pytest.fixture
def run(tmp_path):
    return RunDir.create(tmp_path / "r", recipe_yaml="name: demo\n", name="demo", seed=0)


def written(run):
    return json.loads((run.path / MANIFEST).read_text())


def rewritten(run, **entries):
    path = run.path / MANIFEST
    values = {key: value for key, value in written(run).items() if key != "format"}
    path.write_text(json.dumps({**values, **entries}))


@pytest.mark.parametrize("error", [None, TopicLoraError("bad data")])
def test_a_stage_records_versions_machine_and_memory_however_it_ends(run, error):
    try:
        with run.running("graph"):
            if error:
                raise error
    except TopicLoraError:
        pass
    record = run.stage("graph")
    assert record.state == ("failed" if error else "done")
    assert record.versions["python"] == platform.python_version()
    assert record.machine.cores > 0
    assert record.machine.memory_gib > record.peak.resident_gib > 0


def test_a_machine_is_described_without_names_and_without_loading_torch(run, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    described = machine.machine()
    assert "torch" not in sys.modules
    assert described.accelerator is None
    assert platform.node() not in (described.processor, described.accelerator)


def test_a_manifest_bears_its_format(run):
    assert written(run)["format"] == FORMAT


def test_a_run_of_0_1_is_read_and_is_of_todays_format_once_written(run):
    rewritten(run)
    again = RunDir(run.path)
    assert "format" not in written(run)
    again.update(diverged="at step 3")
    assert (written(run)["format"], again.manifest.name) == (FORMAT, "demo")


def test_a_run_of_a_newer_version_is_refused_in_one_line(run):
    rewritten(run, format=FORMAT + 1)
    with pytest.raises(TopicLoraError, match=f"has the format {FORMAT + 1}; this topiclora reads up to {FORMAT}"):
        RunDir(run.path)
