"""Servers of many LoRAs: how each is started with a bundle, and how a request tells it which adapter it is for."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.runs.results.bundle import Bundle, BundleAdapter

# What vLLM takes for --max-lora-rank (its LoRAConfig).
_VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
_AT_ONCE = 16  # adapters on the accelerator; the others wait in memory


@dataclass(frozen=True)
class Server:
    """start: the command of the server with a bundle from a folder. model: what a request names for one of its
    adapters. base: what it names for none. lists: whether /v1/models has the adapters under these names."""

    start: Callable[[Bundle, Path], list[str]]
    model: Callable[[Bundle, BundleAdapter, Path], str]
    base: Callable[[Bundle], str] = lambda bundle: bundle.base
    lists: bool = False


def _vllm(bundle: Bundle, folder: Path) -> list[str]:
    rank = next((rank for rank in _VLLM_RANKS if rank >= bundle.max_rank), None)
    if rank is None:
        raise TopicLoraError(
            f"{folder} has LoRAs of rank {bundle.max_rank}, and vLLM takes at most {_VLLM_RANKS[-1]}.",
            "Export them with a smaller --rank.",
        )
    count = len(bundle.adapters)
    more = ["--max-cpu-loras", str(count)] if count > _AT_ONCE else []
    options = ["--enable-lora", "--max-loras", str(min(count, _AT_ONCE)), *more, "--max-lora-rank", str(rank)]
    return ["vllm", "serve", bundle.base, *options, "--lora-modules", *_named(bundle, folder)]


def _sglang(bundle: Bundle, folder: Path) -> list[str]:
    options = ["--enable-lora", "--max-loras-per-batch", str(min(len(bundle.adapters), _AT_ONCE))]
    start = ["python", "-m", "sglang.launch_server", "--model-path", bundle.base]
    return [*start, *options, "--lora-paths", *_named(bundle, folder)]


def _lorax(bundle: Bundle, folder: Path) -> list[str]:
    return ["lorax-launcher", "--model-id", bundle.base, "--default-adapter-source", "local"]


def _named(bundle: Bundle, folder: Path) -> list[str]:
    return [f"{adapter.name}={folder / adapter.folder}" for adapter in bundle.adapters]


SERVERS = {
    "vllm": Server(_vllm, lambda bundle, adapter, folder: adapter.name, lists=True),
    "sglang": Server(_sglang, lambda bundle, adapter, folder: f"{bundle.base}:{adapter.name}"),
    "lorax": Server(_lorax, lambda bundle, adapter, folder: str(folder / adapter.folder), lambda bundle: ""),
}


def start_line(server: str, bundle: Bundle, folder: Path) -> str:
    """The command, as a shell reads it, that starts a server with every adapter of a bundle.

    Raises TopicLoraError for LoRAs that the server does not take.
    """
    return shlex.join(SERVERS[server].start(bundle, folder))
