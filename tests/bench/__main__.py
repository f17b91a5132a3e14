"""Runs the suites, prints each table as soon as it is there, and writes everything as JSON.

make bench                                          # about half an hour on two cores
make bench BENCH="--layers 2 --pairs 3"             # a quick look
make bench BENCH="--device cuda --shape 7b"         # on a GPU
make bench BENCH="--peers .venv-peers/bin/python"   # beside other libraries; peers.py says how
"""

import argparse
import json
import platform
import sys
import warnings
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from tests.bench import lengths, suites
from tests.bench.options import add_model_options, as_arguments, chosen_shape
from tests.bench.peer_process import PeerProcess
from tests.bench.report import Suite

SUITES = {
    "step": suites.train_step,
    "growth": suites.growth,
    "generate": suites.generation,
    "moe": suites.mixture_of_experts,
    "lengths": lengths.lengths,
}
WIDTH = 120  # of a table that goes into a file


def main() -> None:
    warnings.simplefilter("ignore", FutureWarning)  # peft's questions to transformers
    options = _options()
    if options.threads:
        torch.set_num_threads(options.threads)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    environment = _environment(torch.device(options.device))
    console.print(" · ".join(f"{name} {value}" for name, value in environment.items()), *as_arguments(options))
    done: list[Suite] = []
    for name in options.suites:
        with console.status(f"{name} ..."):
            done.append(_run(name, options))
        console.print(done[-1].table())
        arguments = [*as_arguments(options), f"--pairs={options.pairs}"]
        _write(options.out, {"environment": environment, "arguments": arguments, "suites": done})
    console.print(f"Every single time: {options.out}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_options(parser)
    parser.add_argument("--pairs", type=int, default=20, help="undisturbed pairs behind every median")
    parser.add_argument("--peers", type=Path, metavar="PYTHON", help="the python of the peers' environment")
    parser.add_argument("--suites", nargs="+", choices=[*SUITES, "peers"], help="default: all that can run")
    parser.add_argument("--out", type=Path, default=Path("runs/bench.json"), help="default: runs/bench.json")
    options = parser.parse_args()
    options.suites = options.suites or [*SUITES, *(["peers"] if options.peers else [])]
    if "peers" in options.suites and not options.peers:
        parser.error("the peers need --peers PYTHON; tests/bench/peers.py says how to make their environment")
    return options


def _run(name: str, options: argparse.Namespace) -> Suite:
    settings = suites.Settings(chosen_shape(options), torch.device(options.device), options.pairs)
    if name != "peers":
        return SUITES[name](settings)
    with PeerProcess(options.peers, as_arguments(options)) as peers:
        return suites.against_peers(settings, peers)


def _environment(device: torch.device) -> dict[str, Any]:
    on_gpu = device.type == "cuda"
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "transformers", "peft")},
        "device": torch.cuda.get_device_name(device) if on_gpu else torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def _write(path: Path, report: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, default=asdict, indent=1))


if __name__ == "__main__":
    main()
