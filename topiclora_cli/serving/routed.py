"""A run's routed model behind OpenAI's API, by transformers' own handlers of its requests.

`transformers serve` loads models by their config.json, which an adapter's folder does not have, and would load any
other that a request names; here the handlers have the one model that there is.
"""

import asyncio
import copy
import functools
import json
import logging
import socket
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any

import torch
import uvicorn
from pydantic import BaseModel, ConfigDict, Field, Json, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from transformers import BatchEncoding, PreTrainedTokenizerBase
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.completion import CompletionHandler
from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.serving.utils import GenerationState

from topiclora_cli.errors import TopicLoraError, nearest
from topiclora_cli.serving.asked import AUTO, CHAT, COMPLETION, MODELS, model_named, parsed
from topiclora_cli.serving.door import SERVER, Door, Refused

_log = logging.getLogger(__name__)
BODY = 30.0  # seconds that a client has to send its request
_MOST_TOKENS = 1024  # of an answer, where the request does not say
_MOST_AT_ONCE = 200


@dataclass(frozen=True)
class Routed:
    """A model that is ready to generate, and how a chat is put to it: from messages and tools to token ids.

    precision: the context that it computes in.
    """

    name: str
    model: Any
    tokenizer: PreTrainedTokenizerBase
    chat_ids: Callable[[Sequence[Any], Any], list[int]]
    precision: Callable[[], AbstractContextManager[Any]]


class _Asked(BaseModel):
    """What of a request has to be of a kind."""

    model_config = ConfigDict(extra="allow")
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0)
    top_p: float | None = Field(None, gt=0, le=1)
    frequency_penalty: float | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**64)
    logit_bias: dict[int, float] | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    generation_config: Json[dict[str, Any]] | None = None


class _OneModel(ModelManager):
    """transformers' keeper of models, with one that is loaded already and stays."""

    def __init__(self, routed: Routed) -> None:
        # Not the parent's, which looks for devices and loads.
        self.force_model = None
        tokenizer = copy.copy(routed.tokenizer)
        tokenizer.apply_chat_template = functools.partial(_put, routed.chat_ids)  # type: ignore[method-assign]
        routed.model.generate = _generating(routed)
        self._kept = routed.model, tokenizer

    def load_model_and_processor(self, *name: Any, **options: Any) -> Any:
        return self._kept


def application(routed: Routed, door: Door, largest: int) -> Starlette:
    """As uvicorn serves it; largest: bytes of a request."""
    keeper, state = _OneModel(routed), GenerationState()
    handlers: dict[str, Any] = {
        CHAT: ChatCompletionHandler(keeper, state),
        COMPLETION: CompletionHandler(keeper, state),
    }

    async def generate(request: Request) -> Response:
        body = parsed(await _content(request, largest))
        named = model_named(body)
        if named not in (AUTO, routed.name):
            raise Refused(404, f"There is no model {named!r}. {nearest(named, [routed.name])}", "model_not_found")
        body |= {"model": routed.name} | _with_room(routed, request.url.path, body)
        try:
            answer: Response = await handlers[request.url.path].handle_request(body, request.state.request_id)
        except (TypeError, ValueError) as error:
            # transformers takes most of these settings as they are, and finds out while it generates.
            if body.get("generation_config") is None:
                raise
            raise Refused(400, f"'generation_config': {error}.", "invalid_value") from None
        return answer

    async def models(request: Request) -> Response:
        known = {"object": "model", "created": 0, "owned_by": "topiclora"}
        return JSONResponse({"object": "list", "data": [{"id": name, **known} for name in (AUTO, routed.name)]})

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    def let_in(answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def checked(request: Request) -> Response:
            door.check(request.headers.get("authorization", ""), request.headers.get("host", ""))
            request.state.request_id = request.headers.get("x-request-id") or str(uuid.uuid4())
            return await answer(request)

        return checked

    routes: list[BaseRoute] = [
        *(Route(path, let_in(generate), methods=["POST"]) for path in handlers),
        Route(MODELS, let_in(models)),
        Route("/health", health),
    ]
    return Starlette(routes=routes, exception_handlers={Refused: _refused, HTTPException: _http, Exception: _failed})


def run_until_stopped(app: Starlette, listening: socket.socket) -> None:
    """Serve an application on a socket until SIGINT or SIGTERM."""
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, limit_concurrency=_MOST_AT_ONCE, timeout_graceful_shutdown=10
    )
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])


async def _content(request: Request, largest: int) -> bytes:
    # What a page in a browser may send anywhere unasked is no JSON.
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise Refused(415, "The Content-Type is not application/json.", "wrong_content_type")
    content = bytearray()
    try:
        async with asyncio.timeout(BODY):
            async for piece in request.stream():
                content += piece
                if len(content) > largest:
                    raise Refused(413, f"The request is larger than {largest} bytes.", "request_too_large")
    except TimeoutError:
        raise Refused(408, f"The request was not complete within {BODY:g} s.", "request_timeout") from None
    except ClientDisconnect:
        raise Refused(400, "The request broke off.", "invalid_json") from None
    return bytes(content)


def _with_room(routed: Routed, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """How long the answer may be: what is asked for, as far as the model has positions.

    Raises Refused for a prompt that leaves no room, and for settings that are none.
    """
    try:
        asked = _Asked.model_validate(body)
        json.dumps(body, ensure_ascii=False).encode()  # what JSON may escape need not be Unicode, as tokenizers want
        ids = _prompt_ids(routed, path, body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise Refused(400, f"'{first['loc'][0]}': {first['msg']}.", "invalid_value") from None
    except TopicLoraError as error:
        raise Refused(400, str(error), "invalid_messages") from None
    except UnicodeEncodeError:
        raise Refused(400, "The text holds half a character (a lone surrogate).", "invalid_json") from None
    longest = getattr(routed.model.config.get_text_config(), "max_position_embeddings", None)
    if not ids or (longest is not None and len(ids) >= longest):
        message = f"The prompt has {len(ids)} tokens, and the model reads 1 to {longest} with its answer."
        raise Refused(400, message, "context_length_exceeded")
    wanted = asked.max_completion_tokens or asked.max_tokens or _MOST_TOKENS
    room = wanted if longest is None else min(wanted, longest - len(ids))
    return {"max_tokens": room} | ({"max_completion_tokens": room} if "max_completion_tokens" in body else {})


def _prompt_ids(routed: Routed, path: str, body: dict[str, Any]) -> list[int]:
    if path == CHAT:
        messages = body.get("messages")
        if not isinstance(messages, list):
            raise Refused(400, "'messages' is no list of messages.", "invalid_messages")
        return routed.chat_ids(messages, body.get("tools"))
    prompt = body.get("prompt")
    if not isinstance(prompt, str):
        raise Refused(400, "'prompt' is no text.", "invalid_prompt")
    return list(routed.tokenizer(prompt)["input_ids"])


def _put(chat_ids: Callable[..., list[int]], messages: Sequence[Any], tools: Any = None, **options: Any) -> Any:
    """A chat as the run was trained on such, where transformers' handlers have the chat template write it."""
    ids = chat_ids(messages, tools)
    return BatchEncoding({"input_ids": [ids], "attention_mask": [[1] * len(ids)]}, tensor_type="pt")


def _generating(routed: Routed) -> Callable[..., Any]:
    generate = routed.model.generate

    @functools.wraps(generate)
    def generating(*args: Any, **settings: Any) -> Any:
        with torch.inference_mode(), routed.precision():
            return generate(*args, **settings)

    return generating


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refused)
    return JSONResponse(error.body, error.status, error.headers)


async def _http(request: Request, error: Exception) -> JSONResponse:
    """What the handlers or the routes refuse; a field of a request that is unknown is 422 there."""
    assert isinstance(error, HTTPException)
    status = 400 if error.status_code == 422 else error.status_code
    return JSONResponse(
        Refused(status, f"{request.method} {request.url.path}: {error.detail}.", "refused").body, status
    )


async def _failed(request: Request, error: Exception) -> JSONResponse:
    _log.error("%s %s", request.method, request.url.path, exc_info=error)
    return JSONResponse(Refused(500, "The server failed; its log says why.", "internal_error", SERVER).body, 500)
