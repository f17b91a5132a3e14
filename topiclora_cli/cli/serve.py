"""`topiclora serve`: a run's routed model, or a gateway in front of a server of LoRAs, behind OpenAI's API."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from topiclora_cli.cli import complete
from topiclora_cli.cli.console import TerminalProgress, console, errors
from topiclora_cli.cli.options import open_trained
from topiclora_cli.errors import TopicLoraError, nearest
from topiclora_cli.runs.commands import RUNS

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from topiclora_cli.serving.door import Door
    from topiclora_cli.serving.gateway import Behind

_DOOR, _BEHIND = "Who may ask", "What is behind the gateway"
_MEBI = 2**20


def serve(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN|BUNDLE",
            autocompletion=complete.runs,
            help="A run (default: the latest under runs/), or, for a gateway, a bundle that merge made: its folder, or "
            "USER/NAME on the hub.",
            show_default=False,
        ),
    ] = None,
    upstream: Annotated[
        str | None,
        typer.Option(
            "--upstream",
            metavar="URL",
            rich_help_panel=_BEHIND,
            help="Hand each prompt on to this server of LoRAs, under the name of the adapter for its topic.",
        ),
    ] = None,
    server: Annotated[
        str, typer.Option("--server", rich_help_panel=_BEHIND, help="What it is: vllm, sglang or lorax.")
    ] = "vllm",
    upstream_key: Annotated[
        str | None,
        typer.Option(
            "--upstream-key",
            envvar="TOPICLORA_UPSTREAM_KEY",
            rich_help_panel=_BEHIND,
            help="The key that it asks for.",
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.1, rich_help_panel=_BEHIND, help="Seconds that it may be silent.")
    ] = 300.0,
    print_upstream: Annotated[
        bool,
        typer.Option("--print-upstream", rich_help_panel=_BEHIND, help="Print the command that starts it, and end."),
    ] = False,
    host: Annotated[
        str, typer.Option("--host", rich_help_panel=_DOOR, help="Address to listen on; others need a key.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, rich_help_panel=_DOOR, help="Port to listen on; 0 is any.")
    ] = 8080,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            "--api-key",
            envvar="TOPICLORA_API_KEY",
            rich_help_panel=_DOOR,
            help="Answer only who gives this key; may be repeated.",
            show_default=False,
        ),
    ] = None,
    largest: Annotated[
        int, typer.Option("--max-request-mib", min=1, rich_help_panel=_DOOR, help="Largest request, in MiB.")
    ] = 8,
) -> None:
    """Answer OpenAI's API with a run: by its routed model, or, with --upstream, by its LoRAs on a fast server.

    A request for the model `auto` goes to the adapter for its topic, one that names an adapter or a topic goes there.
    """
    from topiclora_cli.serving.servers import SERVERS

    if server not in SERVERS:
        raise TopicLoraError(f"--server {server!r} is unknown.", nearest(server, SERVERS))
    if print_upstream:
        _print_start(server, _path(source))
        return
    from topiclora_cli.serving.door import Door, listen

    door = Door(host, api_key or [])
    if upstream is None:
        _serve_routed(source, door, partial(listen, host, port), largest * _MEBI)
        return
    from topiclora_cli.serving.gateway import Behind
    from topiclora_cli.serving.upstream import upstream_url

    behind = Behind(upstream_url(upstream), server, upstream_key, timeout)
    with listen(host, port) as listening:
        _serve_bundle(_path(source), behind, door, listening, largest * _MEBI)


def _path(source: Path | None) -> Path:
    from topiclora_cli.runs.listing import latest_run

    return source if source is not None else latest_run(RUNS).path


def _print_start(server: str, source: Path) -> None:
    from topiclora_cli.serving.servers import start_line
    from topiclora_cli.stages.serve import open_bundle

    folder, bundle = open_bundle(source, TerminalProgress(errors))
    typer.echo(start_line(server, bundle, folder))


def _serve_routed(source: Path | None, door: "Door", listen: "Callable[[], socket.socket]", largest: int) -> None:
    from topiclora_cli.runs.results.bundle import BUNDLE
    from topiclora_cli.serving.libraries import require_server

    if source is not None and (source / BUNDLE).is_file():
        raise TopicLoraError(f"{source} is a bundle of LoRAs for a server of such.", "Add --upstream, or name a run.")
    require_server()
    settings, run = open_trained(source, None)
    with listen() as listening:
        from topiclora_cli.serving.routed import application, run_until_stopped
        from topiclora_cli.stages.serve_routed import open_routed

        routed = open_routed(settings, run)
        console.print(f"{run.path} ({settings.adapter.method}), as the model {routed.name} or auto.", soft_wrap=True)
        console.print(f"Answering at {_address(listening)}/v1; Ctrl-C ends.", soft_wrap=True)
        run_until_stopped(application(routed, door, largest), listening)


def _serve_bundle(source: Path, behind: "Behind", door: "Door", listening: "socket.socket", largest: int) -> None:
    from topiclora_cli.serving.gateway import Gateway
    from topiclora_cli.serving.running import run_until_stopped
    from topiclora_cli.stages.serve import open_bundle, open_served

    folder, bundle = open_bundle(source, TerminalProgress())
    gateway = Gateway(open_served(folder, bundle), behind, door)

    async def begun() -> None:
        console.print(f"{len(bundle.adapters)} adapters of {folder} on {behind.url.origin()}.", soft_wrap=True)
        if trouble := await gateway.upstream.trouble():
            _note(f"the upstream does not answer yet: {trouble}.")
        elif missing := await gateway.missing():
            _note(f"the upstream does not list {', '.join(missing)}; start it as --print-upstream says.")
        console.print(f"Answering at {_address(listening)}/v1; Ctrl-C ends.", soft_wrap=True)

    run_until_stopped(gateway.application(largest), listening, begun)


def _note(text: str) -> None:
    errors.print(f"note: {text}", style="yellow", soft_wrap=True)


def _address(listening: "socket.socket") -> str:
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
