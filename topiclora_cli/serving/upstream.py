"""The server behind a gateway: requests handed on to it, and its answers handed back as they come."""

import asyncio
import json
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import aiohttp
from aiohttp import web
from yarl import URL

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.serving.door import UPSTREAM, Refused
from topiclora_cli.serving.metrics import Metrics

CONNECT, HEALTH = 5.0, 2.0  # seconds
# Less than uvicorn keeps an idle connection, so that a request rarely meets one that is being closed.
_IDLE = 3.0
_PASSED = ("Content-Type", "Retry-After", "X-Request-Id")


def upstream_url(text: str) -> URL:
    """The address of a server, without its /v1; raises TopicLoraError for what is none."""
    hint = "For example http://127.0.0.1:8000."
    try:
        url = URL(text)
        named = url.scheme in ("http", "https") and bool(url.host) and url.port
    except ValueError:
        named = None
    if not named or url.query_string or url.fragment:
        raise TopicLoraError(f"--upstream {text!r} is no URL of a server.", hint)
    if url.user or url.password:
        raise TopicLoraError("--upstream carries a password.", "Give it by --upstream-key.")
    path = url.path.rstrip("/").removesuffix("/v1")
    return url.with_path(path or "/")


class Upstream:
    """A server of OpenAI's API; timeout: seconds that it may be silent. Used as an asynchronous context."""

    def __init__(self, url: URL, metrics: Metrics, *, key: str | None, timeout: float) -> None:
        self.url, self.metrics, self.key, self.timeout = url, metrics, key, timeout

    async def __aenter__(self) -> "Upstream":
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=self.timeout),
            headers={"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {}),
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._session.close()

    async def pass_on(
        self, request: web.Request, body: Mapping[str, Any], sent: Mapping[str, str], back: Mapping[str, str]
    ) -> web.StreamResponse:
        """Hand on a request with another body, and answer it as the server does.

        sent: headers for the server; back: for the client. Raises Refused where the server gives no answer.
        """
        started, content = time.perf_counter(), json.dumps(body).encode()
        try:
            answer = await self._post(request.path, content, sent)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._refusal(error) from None
        self.metrics.upstream.add(time.perf_counter() - started)
        async with answer:
            headers = {name: answer.headers[name] for name in _PASSED if name in answer.headers} | dict(back)
            if answer.content_type == "text/event-stream":
                return await self._stream(request, answer, headers)
            try:
                whole = await answer.read()
            except (aiohttp.ClientError, TimeoutError) as error:
                raise self._refusal(error) from None
            return web.Response(status=answer.status, body=whole, headers=headers)

    async def trouble(self) -> str:
        """Why the server answers nothing now; empty where it does."""
        try:
            async with self._session.get(
                self.url / "health", timeout=aiohttp.ClientTimeout(total=HEALTH), allow_redirects=False
            ) as answer:
                return f"it answers /health with {answer.status}" if answer.status >= 500 else ""
        except TimeoutError:
            return f"it said nothing for {HEALTH:g} s"
        except aiohttp.ClientError as error:
            return self._reason(error)

    async def models(self) -> list[str] | None:
        """The models that the server says it has, None where it does not say."""
        try:
            async with self._session.get(
                self.url / "v1" / "models", timeout=aiohttp.ClientTimeout(total=HEALTH), allow_redirects=False
            ) as answer:
                listed = await answer.json(content_type=None)
                return [str(each["id"]) for each in listed["data"]]
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError):
            return None

    async def _post(self, path: str, content: bytes, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        url = self.url.joinpath(*path.strip("/").split("/"))
        sent = {"Content-Type": "application/json", **headers}
        post = partial(self._session.post, url, data=content, headers=sent, allow_redirects=False)
        try:
            return await post()
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            if isinstance(error, aiohttp.ClientConnectorError):
                raise
            # The connection was an idle one that the server was just closing; no answer had begun.
            return await post()

    async def _stream(
        self, request: web.Request, answer: aiohttp.ClientResponse, headers: Mapping[str, str]
    ) -> web.StreamResponse:
        """The answer piece by piece; one that breaks off ends with an error event, as the head has gone out already."""
        response = web.StreamResponse(status=answer.status, headers={**headers, "Cache-Control": "no-cache"})
        await response.prepare(request)
        pieces = answer.content.iter_any()
        broken = False
        while not broken:
            try:
                piece = await anext(pieces, b"")
            except (aiohttp.ClientError, TimeoutError) as error:
                broken, piece = True, f"\n\ndata: {json.dumps(self._refusal(error).body)}\n\n".encode()
            if not piece:
                break
            try:
                async with asyncio.timeout(self.timeout):
                    await response.write(piece)
            except TimeoutError:
                raise ConnectionResetError("The client takes nothing.") from None
        await response.write_eof()
        return response

    def _refusal(self, error: Exception) -> Refused:
        status, code = (504, "upstream_timeout") if isinstance(error, TimeoutError) else (502, "upstream_unreachable")
        return Refused(status, f"The upstream {self.url.origin()} failed: {self._reason(error)}.", code, UPSTREAM)

    def _reason(self, error: Exception) -> str:
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return f"it took no connection within {CONNECT:g} s"
        if isinstance(error, TimeoutError):
            return f"it said nothing for {self.timeout:g} s"
        if isinstance(error, aiohttp.ClientConnectorError):
            return "it takes no connection"
        return "it broke off the connection"
