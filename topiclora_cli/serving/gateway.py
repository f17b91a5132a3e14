"""The gateway: reads what is asked, tells its topic, and hands it on to the server of LoRAs under the right name."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from aiohttp import web
from yarl import URL

from topiclora_cli.errors import nearest
from topiclora_cli.runs.results.bundle import Bundle
from topiclora_cli.serving.asked import AUTO, CHAT, COMPLETION, MODELS, ReadChat, model_named, parsed, text_asked
from topiclora_cli.serving.chooser import Choice, Chooser, Together
from topiclora_cli.serving.door import SERVER, Door, Refused
from topiclora_cli.serving.metrics import CONTENT_TYPE, Metrics
from topiclora_cli.serving.servers import SERVERS
from topiclora_cli.serving.upstream import Upstream

BODY = 30.0  # seconds that a client has to send its request
MOST_AT_ONCE = 1000
_HEALTH, _METRICS = "/health", "/metrics"
_PATHS = (CHAT, COMPLETION, MODELS, _HEALTH, _METRICS)
_log = logging.getLogger(__name__)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Served:
    """What a gateway serves: a bundle in its folder, what chooses among its adapters, and how it reads a chat."""

    bundle: Bundle
    folder: Path
    chooser: Chooser
    read_chat: ReadChat


@dataclass(frozen=True)
class Behind:
    """What a gateway hands requests on to: a server of that kind (servers.py), its key, seconds that it may be
    silent."""

    url: URL
    server: str = "vllm"
    key: str | None = None
    timeout: float = 300.0


class Gateway:
    """The requests that OpenAI's API has for text, each sent to the adapter for its topic or to the one it names."""

    def __init__(self, served: Served, behind: Behind, door: Door) -> None:
        self.served, self.door, self.metrics = served, door, Metrics()
        self.choose = Together(served.chooser)
        self.upstream = Upstream(behind.url, self.metrics, key=behind.key, timeout=behind.timeout)
        self._server = SERVERS[behind.server]
        bundle, folder = served.bundle, served.folder
        self._names = {each.name: self._server.model(bundle, each, folder) for each in bundle.adapters}
        self._names |= {bundle.base: self._server.base(bundle)}

    def application(self, largest: int) -> web.Application:
        """As aiohttp serves it; largest: bytes of a request."""
        app = web.Application(client_max_size=largest, middlewares=[self._answered])
        app.router.add_post(CHAT, self._generate)
        app.router.add_post(COMPLETION, self._generate)
        app.router.add_get(MODELS, self._models)
        app.router.add_get(_HEALTH, self._health)
        app.router.add_get(_METRICS, self._show_metrics)
        app.cleanup_ctx.append(self._connected)
        return app

    async def missing(self) -> list[str]:
        """Adapters that the server says it does not have; none where it does not say."""
        known = await self.upstream.models() if self._server.lists else None
        return [] if known is None else [name for name, called in self._names.items() if called not in known]

    async def _connected(self, app: web.Application) -> AsyncIterator[None]:
        async with self.upstream:
            yield
            await self.choose.close()

    @web.middleware
    async def _answered(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The handler's answer, or an error in OpenAI's shape; counts both."""
        path = request.path if request.path in _PATHS else "other"
        self.metrics.in_flight += 1
        try:
            if request.path != _HEALTH:
                self.door.check(request.headers.get("Authorization", ""), request.headers.get("Host", ""))
            answer = await handler(request)
        except Refused as error:
            answer = _error(error)
        except web.HTTPRequestEntityTooLarge as error:
            answer = _error(Refused(413, f"The request is too large: {error.text}.", "request_too_large"))
        except web.HTTPException as error:
            answer = _error(Refused(error.status, f"{request.method} {request.path}: {error.reason}.", "not_found"))
        except (asyncio.CancelledError, ConnectionResetError):
            self.metrics.gone.add()
            raise
        except Exception:
            _log.exception("%s %s", request.method, request.path)
            answer = _error(Refused(500, "The gateway failed; its log says why.", "internal_error", SERVER))
        finally:
            self.metrics.in_flight -= 1
        self.metrics.requests.add(path, str(answer.status))
        return answer

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        if self.metrics.in_flight > MOST_AT_ONCE:
            raise Refused(503, f"More than {MOST_AT_ONCE} requests are at work.", "overloaded", SERVER, retry=1)
        body = parsed(await _content(request))
        named = model_named(body)
        if named == AUTO:
            choice = await self._choice(text_asked(request.path, body, self.served.read_chat))
            adapter, back = choice.adapter, _headers(choice)
        else:
            adapter = self._adapter(named)
            back = {"X-Topic-Adapter": quote(adapter, safe="/")}
            self.metrics.named.add(adapter)
        asked = {**body, "model": self._names[adapter]}
        return await self.upstream.pass_on(request, asked, self._sent(request), back)

    async def _choice(self, text: str) -> Choice:
        started = time.perf_counter()
        choice = await self.choose(text)
        self.metrics.choosing.add(time.perf_counter() - started)
        self.metrics.routed.add(choice.topic, choice.adapter)
        if choice.truncated:
            self.metrics.truncated.add()
        return choice

    def _adapter(self, named: str) -> str:
        """The adapter, or the base, that a caller means by its name or by that of a topic."""
        topics = self.served.bundle.topics
        if named in self._names:
            return named
        if named in topics:
            return topics[named]
        hint = nearest(named, [AUTO, *self._names, *topics])
        raise Refused(404, f"There is no model {named!r}. {hint}", "model_not_found")

    def _sent(self, request: web.Request) -> dict[str, str]:
        """Of a client's headers those that the server gets; a key that is ours stays here."""
        names = ("Accept", "X-Request-Id", *(() if self.door.has_keys or self.upstream.key else ("Authorization",)))
        return {name: request.headers[name] for name in names if name in request.headers}

    async def _models(self, request: web.Request) -> web.Response:
        known = {"object": "model", "created": 0, "owned_by": "topiclora"}
        return web.json_response({"object": "list", "data": [{"id": name, **known} for name in (AUTO, *self._names)]})

    async def _health(self, request: web.Request) -> web.Response:
        trouble = await self.upstream.trouble()
        said = {"status": "upstream down", "reason": trouble} if trouble else {"status": "ok"}
        return web.json_response(said, status=503 if trouble else 200)

    async def _show_metrics(self, request: web.Request) -> web.Response:
        return web.Response(text=self.metrics.text(), headers={"Content-Type": CONTENT_TYPE})


async def _content(request: web.Request) -> bytes:
    # What a page in a browser may send anywhere unasked is no JSON.
    if request.content_type != "application/json":
        raise Refused(415, "The Content-Type is not application/json.", "wrong_content_type")
    if (request.content_length or 0) > request.client_max_size:
        raise web.HTTPRequestEntityTooLarge(request.client_max_size, request.content_length or 0)
    try:
        async with asyncio.timeout(BODY):
            return await request.read()
    except TimeoutError:
        raise Refused(408, f"The request was not complete within {BODY:g} s.", "request_timeout") from None


def _headers(choice: Choice) -> dict[str, str]:
    return {
        # Names of topics are people's own, and headers take only ASCII.
        "X-Topic": quote(choice.topic, safe="/ "),
        "X-Topic-Adapter": quote(choice.adapter, safe="/"),
        "X-Topic-Relevance": f"{choice.relevance:.3f}",
        **({"X-Topic-Truncated": "true"} if choice.truncated else {}),
    }


def _error(error: Refused) -> web.Response:
    headers = {**error.headers, **({"Connection": "close"} if error.status in (408, 413) else {})}
    return web.Response(
        status=error.status, text=json.dumps(error.body), content_type="application/json", headers=headers
    )
