"""Workers beside this process: each has its share of the machine, and one that dies costs its cell alone."""

import os
import signal
import time

import pytest

from topiclora_cli.ablation.grid import Cell
from topiclora_cli.ablation.launchers import local
from topiclora_cli.ablation.launchers.local import Local
from topiclora_cli.ablation.launchers.places import refuse_absent_gpus, worker_environment
from topiclora_cli.errors import TopicLoraError

pytestmark = pytest.mark.distributed


@pytest.fixture
def workers(tmp_path, monkeypatch):
    """Workers that do what their cells' names say: (names, jobs, ...) -> how each ended, by name, in order."""
    monkeypatch.setattr(local, "WORKER", "tests.ablation.stand_in")
    opened = []

    def work(names, jobs, gpus=()):
        cells = [Cell(name, 0, None) for name in names]
        launcher = Local(cells, tmp_path, jobs, gpus)
        opened.append(launcher)
        left, found = list(cells), {}
        while len(found) < len(cells):
            while left and launcher.free():
                launcher.start(left.pop(0))
            for ended in launcher.wait(30):
                found[ended.cell.name] = ended
        return found

    yield work
    for launcher in opened:
        launcher.close()


def test_one_worker_serves_cell_after_cell(workers):
    found = workers(["a", "b", "c"], jobs=1)
    assert [ended.how for ended in found.values()] == ["done"] * 3
    assert len({ended.reason for ended in found.values()}) == 1


def test_a_worker_that_dies_costs_its_cell_alone_and_says_how(workers, tmp_path):
    found = workers(["killed", "a", "exits", "b", "fails", "c"], jobs=2)
    assert {name: ended.how for name, ended in found.items()} == {
        **dict.fromkeys(["a", "b", "c"], "done"),
        **dict.fromkeys(["killed", "exits"], "died"),
        "fails": "failed",
    }
    assert found["killed"].reason == "Its process was killed by signal 9 (SIGKILL)."
    assert found["killed"].hint.startswith("Main memory has run out, most likely: use fewer --jobs. Log: ")
    assert found["exits"].reason == "Its process ended with exit code 3."


def test_a_worker_that_dies_between_cells_costs_none(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "WORKER", "tests.ablation.stand_in")
    cells = [Cell("a", 0, None), Cell("b", 0, None)]
    launcher = Local(cells, tmp_path, 1)
    launcher.start(cells[0])
    (first,) = launcher.wait(30)
    os.kill(int(first.reason), signal.SIGKILL)
    launcher._slots[0].process.wait(30)
    launcher.start(cells[1])
    (second,) = launcher.wait(30)
    assert (second.how, second.reason != first.reason) == ("done", True)
    launcher.close()


def test_a_stop_ends_what_runs_as_interrupted(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "WORKER", "tests.ablation.stand_in")
    cells = [Cell(name, 0, None) for name in ("long", "a")]
    launcher = Local(cells, tmp_path, 2)
    for cell in cells:
        launcher.start(cell)
    assert [ended.cell.name for ended in launcher.wait(30)] == ["a"]
    time.sleep(0.3)  # both have come to their cells
    launcher.stop()
    (ended,) = launcher.wait(30)
    assert (ended.cell.name, ended.how) == ("long", "interrupted")
    launcher.close()


def test_a_kill_ends_what_hears_no_signal(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "WORKER", "tests.ablation.stand_in")
    cells = [Cell("deaf", 0, None), Cell("long", 0, None)]
    launcher = Local(cells, tmp_path, 1)
    launcher.start(cells[0])
    assert launcher.wait(30)[0].reason == "deaf now"
    launcher.start(cells[1])
    launcher.stop()
    assert launcher.wait(0.3) == []
    launcher.kill()
    assert launcher.wait(30)[0].how == "interrupted"
    launcher.close()


def test_workers_share_cores_and_gpus(workers, monkeypatch):
    monkeypatch.setattr("topiclora_cli.ablation.launchers.places.cores", lambda: 7)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("RANK", "1")
    found = workers(["tells1", "tells2", "tells3"], jobs=3, gpus=(4, 5))
    assert sorted(ended.reason for ended in found.values()) in (
        ["2 4 None", "2 4 None", "2 5 None"],
        ["2 4 None", "2 5 None", "2 5 None"],
        ["2 4 None"] * 3,
        ["2 5 None"] * 3,
    )


@pytest.mark.parametrize(
    ("there", "told"), [(0, "no GPU 5; no GPU is visible"), (1, "GPU 0 alone is"), (4, "no GPU 5; GPUs 0 to 3 are")]
)
def test_a_gpu_that_is_not_there_is_refused(there, told, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: there)
    with pytest.raises(TopicLoraError, match=told):
        refuse_absent_gpus([0, 5] if there else [5, 0])
    refuse_absent_gpus(range(there))


def test_environment_of_a_worker(monkeypatch):
    monkeypatch.setattr("topiclora_cli.ablation.launchers.places.cores", lambda: 8)

    def threads(jobs, **given):
        return worker_environment(0, jobs, (), given)["OMP_NUM_THREADS"]

    assert (threads(1), threads(3), threads(8), threads(16)) == ("8", "2", "1", "1")
    assert (threads(2, OMP_NUM_THREADS="3"), threads(2, OMP_NUM_THREADS="6")) == ("3", "4")

    def gpu(slot, gpus, **given):
        return worker_environment(slot, 4, gpus, given).get("CUDA_VISIBLE_DEVICES")

    assert [gpu(slot, (0, 1)) for slot in range(4)] == ["0", "1", "0", "1"]
    # GPUs are numbered as the parent sees them, a cluster's share of a node's, perhaps.
    assert [gpu(slot, (0, 1), CUDA_VISIBLE_DEVICES="6,7") for slot in range(2)] == ["6", "7"]
    assert gpu(0, ()) is None
    assert gpu(0, (), CUDA_VISIBLE_DEVICES="3") == "3"
