"""A Ray cluster that answers, and whose nodes can run cells: asked before any cell is sent."""

import importlib.util
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from topiclora_cli import __version__
from topiclora_cli.errors import TopicLoraError

PATIENCE = 10.0  # seconds for an address to answer
_SETUP = 60.0  # seconds for a node to start a worker, and for a cluster to say how it is
_TRY = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False)"
_OBJECTS = 128 * 2**20  # bytes of a local instance's object store, which holds a grid and no tensors


def connect(address: str | None) -> bool:
    """Connect to the cluster at an address (`auto`, `host:port`, `ray://host:port`); None is $RAY_ADDRESS, or else a
    local instance, which is started.

    Returns whether it is ours to leave: not where this process is connected already. Raises TopicLoraError for a
    missing package, and where no cluster answers within some seconds.
    """
    if importlib.util.find_spec("ray") is None:
        raise TopicLoraError(
            "--launcher ray needs the package ray, which is not installed.", "Install it: pip install 'topiclora[ray]'"
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.getLogger("ray").setLevel(logging.ERROR)
    import ray

    if ray.is_initialized():
        return False
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    own: dict[str, Any] = {"include_dashboard": False, "object_store_memory": _OBJECTS} if address == "local" else {}
    if address not in ("local", "auto"):
        _knock(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except (ConnectionError, RuntimeError, ValueError, ImportError) as error:
        said = " ".join(str(error).split()).rstrip(".")
        raise TopicLoraError(
            f"No connection to a Ray cluster at {address}: {said[:300]}.",
            "Start one with: ray start --head, or give another --address; for a token: RAY_AUTH_MODE=token.",
        ) from None
    return True


def refuse_unfit_nodes(nodes: Sequence[Mapping[str, Any]], folder: Path, *, cpus: float, gpus: float) -> None:
    """Raises TopicLoraError where no node has what a cell takes, or one that has lacks the package or the folder."""
    if gpus > 1 and not float(gpus).is_integer():
        raise TopicLoraError(
            f"--cell-gpus {gpus:g}: Ray shares one GPU, or gives whole ones.", "Example: --cell-gpus 0.5"
        )
    fit = [node for node in nodes if _has(node, "CPU") >= cpus and _has(node, "GPU") >= gpus]
    if not fit:
        raise TopicLoraError(
            f"No node of the Ray cluster has {cpus:g} CPUs and {gpus:g} GPUs, which a cell takes.",
            "Lower --cell-cpus or --cell-gpus.",
        )
    marker = folder / f".seen-{uuid4().hex}"
    folder.mkdir(parents=True, exist_ok=True)
    marker.touch()
    try:
        for name, version, sees in _asked(fit, marker):
            if version is None:
                raise TopicLoraError(
                    f"The Ray node {name} lacks the package topiclora.",
                    f"Install topiclora {__version__} on all nodes.",
                )
            if version != __version__:
                raise TopicLoraError(
                    f"The Ray node {name} has topiclora {version}, and this is {__version__}.",
                    "Install one version on all nodes.",
                )
            if not sees:
                raise TopicLoraError(
                    f"The Ray node {name} does not see {folder}: runs and their locks are files that all nodes share.",
                    "Start the run with --out on a file system that they share.",
                )
    finally:
        marker.unlink(missing_ok=True)


def _asked(nodes: Sequence[Mapping[str, Any]], marker: Path) -> list[tuple[str, str | None, bool]]:
    """What each node says of itself: its name, the version of the package there, and whether it sees the file."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Within a function it travels by value: a node without the package could not look it up.
    def look(path: str) -> tuple[str | None, bool]:
        import os

        try:
            from topiclora_cli import __version__ as version
        except ImportError:
            return None, os.path.exists(path)
        return version, os.path.exists(path)

    task = ray.remote(look)
    refs = [
        task.options(
            num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(str(marker))
        for node in nodes
    ]
    found = []
    for node, ref in zip(nodes, refs, strict=True):
        name = node["NodeManagerHostname"]
        try:
            version, sees = ray.get(ref, timeout=_SETUP)
        except (ray.exceptions.GetTimeoutError, ray.exceptions.RayError) as error:
            raise TopicLoraError(
                f"The Ray node {name} runs no task: {' '.join(str(error).split())[:200]}.", "See: ray status"
            ) from None
        found.append((name, version, sees))
    return found


def _has(node: Mapping[str, Any], resource: str) -> float:
    return float(node["Resources"].get(resource, 0.0))


def _knock(address: str) -> None:
    """Raises TopicLoraError where nobody listens at the address: Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and port.isdecimal()):
        raise TopicLoraError(
            f"--address {address!r} is no address of a Ray cluster.", "Give auto, HOST:PORT or ray://HOST:PORT."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()
    except OSError as error:
        raise _silent(address, error.strerror or str(error)) from None
    if address.startswith("ray://"):
        return  # Ray's client gives up by itself
    # What listens there may be no Ray, which Ray would go on asking for many minutes: a process that can be ended does.
    try:
        subprocess.run([sys.executable, "-c", _TRY, address], timeout=_SETUP, capture_output=True, check=False)
    except subprocess.TimeoutExpired:
        raise _silent(address, f"no word in {_SETUP:.0f} s") from None


def _silent(address: str, why: str) -> TopicLoraError:
    return TopicLoraError(f"No Ray cluster answers at {address} ({why}).", "Is it running? See: ray status")
