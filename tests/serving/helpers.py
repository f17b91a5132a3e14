"""A gateway over a tiny bundle, and servers behind it that do what a test asks of them."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import threading
import time
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from topiclora_cli.runs.results.bundle import Bundle, BundleAdapter
from topiclora_cli.serving.chooser import Chooser
from topiclora_cli.serving.door import Door, listen
from topiclora_cli.serving.gateway import Behind, Gateway, Served
from topiclora_cli.topics.encoder import HashEncoder
from topiclora_cli.topics.prior import TopicPrior

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
TOPICS = {"sums": "maths", "algebra": "maths", "proofs": "maths", "poems": "verse", "jokes": "mean", "stories": "mean"}
BUNDLE = Bundle(
    base="some/base",
    model="some/base",
    encoder="hash:64",
    default="mean",
    max_rank=12,
    adapters=(
        BundleAdapter("mean", "lora/mean", 12),
        BundleAdapter("maths", "lora/maths", 8, ("sums", "algebra", "proofs")),
        BundleAdapter("verse", "lora/verse", 8, ("poems",)),
    ),
    topics=TOPICS,
)


def served(graph, bundle=BUNDLE, folder=Path("bundle")):
    """The bundle with a chooser of hashed words; a chat is read by its last message."""
    chooser = Chooser(TopicPrior(graph, HashEncoder(64)), bundle.topics)
    return Served(bundle, folder, chooser, lambda messages, tools: str(messages[-1]["content"]))


class Stub:
    """A server of LoRAs: answers with the model and the headers that it was asked with, or as `answer` says."""

    def __init__(self, answer=None):
        self.asked, self.headers, self.cancelled = [], [], 0
        self.answer = answer or self.echo

    async def echo(self, request, body):
        if not body.get("stream"):
            return web.json_response({"model": body["model"], "path": request.path})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece in (json.dumps({"model": body["model"]}), json.dumps({"n": 1}), "[DONE]"):
            await response.write(f"data: {piece}\n\n".encode())
            await asyncio.sleep(0)
        return response

    async def handle(self, request):
        body = await request.json()
        self.asked.append(body)
        self.headers.append(request.headers)
        try:
            return await self.answer(request, body)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    def application(self):
        app = web.Application(client_max_size=2**24)
        app.router.add_post("/{rest:.*}", self.handle)
        app.router.add_get("/health", lambda request: _said(web.Response()))
        listed = {"data": [{"id": name} for name in ("some/base", "mean", "maths")]}
        app.router.add_get("/v1/models", lambda request: _said(web.json_response(listed)))
        return app


async def _said(response):
    return response


@asynccontextmanager
async def gateway(graph, stub, *, keys=(), largest=2**20, url=None, **behind):
    """A client of a gateway before a stub; the client has `.gateway` and `.stub`."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(TestServer(stub.application(), handler_cancellation=True))
        url = server.make_url("/") if url is None else url
        made = Gateway(served(graph), Behind(url, **{"timeout": 5.0, **behind}), Door("127.0.0.1", keys))
        front = TestServer(made.application(largest), handler_cancellation=True)
        client = await stack.enter_async_context(TestClient(front))
        client.gateway, client.stub = made, stub
        yield client


def chat(text, **more):
    return {"model": "auto", "messages": [{"role": "user", "content": text}], **more}


def free_port():
    """A port of this machine that nobody listens on."""
    with listen("127.0.0.1", 0) as listening:
        return listening.getsockname()[1]


def asked_then_stopped(port, ask, number=signal.SIGINT):
    """A thread that asks as soon as somebody listens on a port, and then stops this process by a signal."""

    def play():
        try:
            for _ in range(600):
                with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.05)
            ask()
        finally:
            os.kill(os.getpid(), number)

    thread = threading.Thread(target=play)
    thread.start()
    return thread
