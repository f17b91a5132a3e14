"""A server at work until it is told to stop."""

import asyncio
import signal
import socket
from collections.abc import Awaitable, Callable

from aiohttp import web

_SHUTDOWN = 10.0  # seconds that requests at work have left when the server stops


def run_until_stopped(app: web.Application, listening: socket.socket, begun: Callable[[], Awaitable[None]]) -> None:
    """Serve an application on a socket until SIGINT or SIGTERM; `begun` is awaited once it answers.

    A client that leaves has its request cancelled.
    """
    asyncio.run(_run(app, listening, begun))


async def _run(app: web.Application, listening: socket.socket, begun: Callable[[], Awaitable[None]]) -> None:
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=_SHUTDOWN)
    await runner.setup()
    try:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        await web.SockSite(runner, listening, backlog=1024).start()
        await begun()
        await stop.wait()
    finally:
        await runner.cleanup()
