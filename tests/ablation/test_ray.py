"""Cells as Ray tasks: one that dies costs itself alone, and what keeps a cluster from running cells is told at once."""

import os
import signal
import socket
import time

import pytest

from topiclora_cli.ablation.grid import make_grid
from topiclora_cli.ablation.launchers import ray_cluster
from topiclora_cli.ablation.launchers.on_ray import OnRay
from topiclora_cli.ablation.options import LaunchOptions
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import build_recipe
from topiclora_cli.runs.progress import LoggedProgress

ray = pytest.importorskip("ray")


def grid(*names):
    cells = {name: {"loss.kl.weight": 0.0} for name in names}
    return make_grid(build_recipe({"name": "x", "model": {"name": "m"}, "ablation": {"cells": cells}}, where="here"))


def on_ray(cells, folder, attempt=None, **options):
    return OnRay(cells, folder, LoggedProgress(), LaunchOptions(launcher="ray", **options), attempt)


@pytest.fixture(scope="module")
def cluster():
    """A Ray of two workers, which ignore SIGINT as all do that a script starts in its background."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # no worker waits until all else on the machine has ended
        heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            ray.init(
                address="local",
                num_cpus=2,
                object_store_memory=80 * 2**20,
                include_dashboard=False,
                log_to_driver=False,
            )
        finally:
            signal.signal(signal.SIGINT, heard)
        yield
        ray.shutdown()


def until_all_have_ended(launcher, cells):
    left, found = list(cells), {}
    while left or len(found) < len(cells):
        while left and launcher.free():
            launcher.start(left.pop(0))
        found |= {ended.cell.name: ended for ended in launcher.wait(30)}
    return found


@pytest.mark.distributed
def test_a_worker_killed_in_a_cell_costs_that_cell_alone(cluster, tmp_path):
    def attempt(cell, grid, folder, progress):
        from topiclora_cli.ablation.launchers import Ended

        (folder / cell.folder).mkdir()
        (folder / cell.folder / "worker").write_text(str(os.getpid()))
        if cell.name == "doomed":
            os.kill(os.getpid(), signal.SIGKILL)
        (folder / cell.folder / "threads").write_text(os.environ.get("OMP_NUM_THREADS", ""))
        return Ended(cell, "done", reason=f"of {len(grid)}")

    cells = grid("doomed", "b")
    launcher = on_ray(cells, tmp_path, attempt)
    assert launcher.free() == 2
    found = until_all_have_ended(launcher, cells)
    launcher.close()
    assert {name: ended.how for name, ended in found.items()} == {
        "full": "done",
        "doomed": "died",
        "b": "done",
    }
    assert found["doomed"].reason == "Its Ray worker died."
    assert found["b"].reason == "of 3"
    assert (tmp_path / "b-s0" / "threads").read_text() == "1"
    assert ray.is_initialized()  # it was there before


@pytest.mark.distributed
def test_a_stop_interrupts_what_runs_where_it_can_be_resumed(cluster, tmp_path):
    def attempt(cell, grid, folder, progress):
        try:
            (folder / "started").touch()
            for _ in range(6000):
                time.sleep(0.01)
        except KeyboardInterrupt:
            (folder / "sealed").touch()
            raise

    cells = grid()
    launcher = on_ray(cells, tmp_path, attempt, jobs=1)
    launcher.start(cells[0])
    assert launcher.free() == 0
    while not (tmp_path / "started").exists():
        time.sleep(0.02)
    launcher.stop()
    (ended,) = launcher.wait(60)
    launcher.close()
    assert ended.how == "interrupted"
    assert (tmp_path / "sealed").exists()


@pytest.mark.distributed
def test_a_cell_that_no_node_has_room_for_is_refused(cluster, tmp_path):
    with pytest.raises(TopicLoraError, match=r"No node of the Ray cluster has 64 CPUs and 0 GPUs.*Lower --cell-cpus"):
        on_ray(grid(), tmp_path, cpus=64)
    with pytest.raises(TopicLoraError, match=r"has 1 CPUs and 0\.5 GPUs"):
        on_ray(grid(), tmp_path, gpu_share=0.5)


@pytest.mark.slow
@pytest.mark.distributed
def test_a_grid_is_trained_and_scored_on_a_cluster(cluster, tiny_recipe, run_cli, tmp_path):
    code, text = run_cli("ablate", "--recipe", tiny_recipe, "--out", "grid", "--launcher", "ray")
    assert code == 0, text
    assert "Ray: 2 cells at once on 1 node." in text
    assert {path.name for path in (tmp_path / "grid" / "ablation").glob("*-s0")} == {"full-s0", "kl_off-s0"}
    assert "Scored: all runs of 2 cells" in (tmp_path / "grid" / "ablation" / "report.md").read_text()


NODES = [{"NodeID": "0", "NodeManagerHostname": "n1", "Resources": {"CPU": 2.0}}]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (("n1", None, True), "n1 lacks the package topiclora. Install topiclora .* on all nodes"),
        (("n1", "0.0.9", True), "n1 has topiclora 0.0.9, and this is"),
        (("n1", ray_cluster.__version__, False), "n1 does not see .*Start the run with --out on a file system"),
    ],
)
def test_a_node_that_cannot_run_a_cell_is_named(said, message, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_cluster, "_asked", lambda nodes, marker: [said])
    with pytest.raises(TopicLoraError, match=message):
        ray_cluster.refuse_unfit_nodes(NODES, tmp_path, cpus=1, gpus=0)
    assert not list(tmp_path.iterdir())


def test_a_share_of_several_gpus_is_refused(tmp_path):
    with pytest.raises(TopicLoraError, match=r"--cell-gpus 1\.5: Ray shares one GPU, or gives whole ones"):
        ray_cluster.refuse_unfit_nodes(NODES, tmp_path, cpus=1, gpus=1.5)


def closed_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nobody_answers_is_told_within_seconds(scheme, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    before = time.monotonic()
    with pytest.raises(TopicLoraError, match=r"No Ray cluster answers at .*Is it running\?"):
        ray_cluster.connect(f"{scheme}127.0.0.1:{closed_port()}")
    assert time.monotonic() - before < ray_cluster.PATIENCE


def test_an_address_where_something_else_listens_is_told(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_cluster, "_SETUP", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(TopicLoraError, match=r"\(no word in 0 s\)"):
        ray_cluster.connect(f"127.0.0.1:{other.getsockname()[1]}")


def test_what_is_no_address_is_told(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(
        TopicLoraError, match=r"is no address of a Ray cluster\. Give auto, HOST:PORT or ray://HOST:PORT"
    ):
        ray_cluster.connect("cluster")


def test_without_ray_the_command_that_installs_it_is_told(monkeypatch):
    monkeypatch.setattr(ray_cluster.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TopicLoraError, match=r"not installed\. Install it: pip install 'topiclora\[ray\]'"):
        ray_cluster.connect(None)
