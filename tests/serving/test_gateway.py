"""The gateway: the adapter that a topic asks for, answers as the server gives them, and nothing lost when one fails."""

import asyncio
import json
import socket

import pytest
from aiohttp import web
from yarl import URL

from tests.serving.helpers import CHAT, COMPLETION, Stub, chat, gateway
from topiclora_cli.serving import gateway as module

SUM, POEM, JOKE = "adding whole numbers", "writing verse that rhymes", "writing a line that makes people laugh"


def played(graph, play, *, stub=None, **settings):
    """What a play with a client of a gateway returns."""

    async def run():
        async with gateway(graph, stub or Stub(), **settings) as client:
            return await asyncio.wait_for(play(client), 20)

    return asyncio.run(run())


async def refused(answer, status, code):
    """The message of an answer that is an error in OpenAI's shape."""
    assert answer.status == status
    error = (await answer.json())["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["code"] == code
    return error["message"]


def test_each_prompt_goes_to_the_adapter_for_its_topic(small_graph):
    async def play(client):
        for text, adapter, topic in ((SUM, "maths", "sums"), (POEM, "verse", "poems"), (JOKE, "mean", "jokes")):
            for path, body in ((CHAT, chat(text)), (COMPLETION, {"prompt": text, "max_tokens": 3})):
                answer = await client.post(path, json=body)
                assert await answer.json() == {"model": adapter, "path": path}
                assert (answer.headers["X-Topic"], answer.headers["X-Topic-Adapter"]) == (topic, adapter)
                assert 0 < float(answer.headers["X-Topic-Relevance"]) < 2
                assert "X-Topic-Truncated" not in answer.headers
        assert client.stub.asked[1] == {"prompt": SUM, "max_tokens": 3, "model": "maths"}

    played(small_graph, play)


@pytest.mark.parametrize(
    ("named", "adapter"), [("verse", "verse"), ("algebra", "maths"), ("jokes", "mean"), ("some/base", "some/base")]
)
def test_whoever_names_an_adapter_a_topic_or_the_base_gets_it(named, adapter, small_graph):
    async def play(client):
        answer = await client.post(CHAT, json=chat(SUM, model=named))
        assert (await answer.json())["model"] == adapter
        assert answer.headers["X-Topic-Adapter"] == adapter
        assert "X-Topic" not in answer.headers
        # Its prompt is not read, whatever that is.
        assert (await client.post(COMPLETION, json={"model": named, "prompt": [1, 2]})).status == 200

    played(small_graph, play)


def test_an_unknown_model_is_refused_with_the_nearest(small_graph):
    async def play(client):
        answer = await client.post(CHAT, json=chat(SUM, model="math"))
        assert "'maths'" in await refused(answer, 404, "model_not_found")
        listed = await (await client.get("/v1/models")).json()
        assert [each["id"] for each in listed["data"]] == ["auto", "mean", "maths", "verse", "some/base"]
        assert not client.stub.asked

    played(small_graph, play)


@pytest.mark.parametrize(
    ("server", "names"),
    [
        ("vllm", ["maths", "some/base"]),
        ("sglang", ["some/base:maths", "some/base"]),
        ("lorax", ["bundle/lora/maths", ""]),
    ],
)
def test_servers_are_told_the_adapter_in_their_own_way(server, names, small_graph):
    async def play(client):
        for model in ("auto", "some/base"):
            await client.post(CHAT, json=chat(SUM, model=model))
        assert [asked["model"] for asked in client.stub.asked] == names

    played(small_graph, play, server=server)


def test_a_stream_comes_piece_by_piece(small_graph):
    go_on = asyncio.Event()

    async def slow(request, body):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: one\n\n")
        await go_on.wait()
        await response.write(b"data: [DONE]\n\n")
        return response

    async def play(client):
        answer = await client.post(CHAT, json=chat(POEM, stream=True))
        assert await answer.content.readuntil(b"\n\n") == b"data: one\n\n"
        assert answer.headers["X-Topic"] == "poems"
        go_on.set()
        assert await answer.read() == b"data: [DONE]\n\n"

    played(small_graph, play, stub=Stub(slow))


def test_errors_of_the_server_come_back_as_they_are(small_graph):
    async def busy(request, body):
        return web.json_response({"error": {"message": "full"}}, status=429, headers={"Retry-After": "7"})

    async def play(client):
        answer = await client.post(CHAT, json=chat(SUM))
        assert (answer.status, answer.headers["Retry-After"]) == (429, "7")
        assert await answer.json() == {"error": {"message": "full"}}

    played(small_graph, play, stub=Stub(busy))


def test_a_server_that_is_down_gives_502(small_graph):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        url = URL(f"http://127.0.0.1:{taken.getsockname()[1]}")

        async def play(client):
            answer = await client.post(CHAT, json=chat(SUM))
            assert "takes no connection" in await refused(answer, 502, "upstream_unreachable")
            health = await client.get("/health")
            assert (health.status, (await health.json())["reason"]) == (503, "it takes no connection")

        played(small_graph, play, url=url)


def test_a_server_that_is_silent_gives_504(small_graph):
    async def silent(request, body):
        await asyncio.sleep(60)

    async def play(client):
        answer = await client.post(CHAT, json=chat(SUM))
        assert "said nothing for 0.2 s" in await refused(answer, 504, "upstream_timeout")

    played(small_graph, play, stub=Stub(silent), timeout=0.2)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_breaks_off_ends_with_an_error(stream, small_graph):
    async def breaks(request, body):
        kind = "text/event-stream" if stream else "application/json"
        response = web.StreamResponse(headers={"Content-Type": kind})
        await response.prepare(request)
        await response.write(b"data: half")
        request.transport.abort()
        await asyncio.sleep(1)

    async def play(client):
        answer = await client.post(CHAT, json=chat(SUM, stream=stream))
        if not stream:
            assert "broke off" in await refused(answer, 502, "upstream_unreachable")
            return
        *_, last, end = (await answer.read()).decode().split("\n\n")
        assert (json.loads(last.removeprefix("data: "))["error"]["code"], end) == ("upstream_unreachable", "")

    played(small_graph, play, stub=Stub(breaks))


def test_a_connection_that_the_server_just_closed_loses_no_request(small_graph):
    tries = []

    async def closes_once(request, body):
        tries.append(body)
        if len(tries) == 1:
            request.transport.abort()
            await asyncio.sleep(1)
        return web.json_response({"model": body["model"]})

    async def play(client):
        assert (await client.post(CHAT, json=chat(SUM))).status == 200
        assert len(tries) == 2

    played(small_graph, play, stub=Stub(closes_once))


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_cancels_its_request_upstream(stream, small_graph):
    begun = asyncio.Event()

    async def long(request, body):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream" if stream else "text/plain"})
        await response.prepare(request)
        await response.write(b"data: one\n\n")
        begun.set()
        await asyncio.sleep(60)

    async def play(client):
        asking = asyncio.create_task(client.post(CHAT, json=chat(SUM, stream=stream)))
        await begun.wait()
        if stream:
            (await asking).close()
        else:
            asking.cancel()
        while not client.stub.cancelled:
            await asyncio.sleep(0.01)
        assert "topiclora_disconnected_total 1" in await (await client.get("/metrics")).text()

    played(small_graph, play, stub=Stub(long))


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        (CHAT, b"{", "invalid_json"),
        (CHAT, b"[]", "invalid_json"),
        (CHAT, b"\xff", "invalid_json"),
        (CHAT, b"[" * 100_000, "invalid_json"),
        (CHAT, b"{}", "invalid_messages"),
        (CHAT, b'{"messages": []}', "invalid_messages"),
        (CHAT, b'{"messages": [{"content": " "}]}', "invalid_messages"),
        (COMPLETION, b"{}", "invalid_prompt"),
        (COMPLETION, b'{"prompt": [1, 2]}', "invalid_prompt"),
        (COMPLETION, b'{"prompt": []}', "invalid_prompt"),
        (COMPLETION, b'{"prompt": "x", "model": 3}', "invalid_model"),
    ],
)
def test_what_is_no_request_is_refused(path, body, code, small_graph):
    async def play(client):
        await refused(await client.post(path, data=body, headers={"Content-Type": "application/json"}), 400, code)
        assert not client.stub.asked

    played(small_graph, play)


def test_only_json_of_a_fair_size_is_taken_and_only_where_it_belongs(small_graph):
    async def many():
        for _ in range(40):
            yield b" " * 1000

    async def play(client):
        await refused(await client.post(CHAT, data="{}"), 415, "wrong_content_type")
        await refused(await client.post(CHAT, json=chat("x" * 20_000)), 413, "request_too_large")
        chunked = await client.post(CHAT, data=many(), headers={"Content-Type": "application/json"})
        await refused(chunked, 413, "request_too_large")
        await refused(await client.get(CHAT), 405, "not_found")
        await refused(await client.post("/v1/embeddings", json={}), 404, "not_found")
        assert not client.stub.asked

    played(small_graph, play, largest=10_000)


def test_a_request_that_never_ends_is_given_up(small_graph, monkeypatch):
    monkeypatch.setattr(module, "BODY", 0.1)

    async def play(client):
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        head = (
            f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n"
        )
        writer.write(f"{head}{{".encode())
        assert b" 408 " in await reader.readline()
        writer.close()

    played(small_graph, play)


def test_several_prompts_of_one_request_go_together(small_graph):
    async def play(client):
        answer = await client.post(COMPLETION, json={"prompt": [POEM, POEM]})
        assert (await answer.json())["model"] == "verse"

    played(small_graph, play)


def test_a_prompt_longer_than_is_read_is_said(small_graph):
    async def play(client):
        answer = await client.post(COMPLETION, json={"prompt": f"{SUM} " * 3000})
        assert (answer.headers["X-Topic-Truncated"], answer.headers["X-Topic"]) == ("true", "sums")
        assert "topiclora_truncated_total 1" in await (await client.get("/metrics")).text()

    played(small_graph, play)


def test_text_that_is_no_unicode_is_read_all_the_same(small_graph):
    async def play(client):
        body = b'{"prompt": "adding whole numbers \\ud83d"}'
        answer = await client.post(COMPLETION, data=body, headers={"Content-Type": "application/json"})
        assert (await answer.json())["model"] == "maths"
        assert client.stub.asked[0]["prompt"] == "adding whole numbers \ud83d"

    played(small_graph, play)


def test_keys_are_asked_for_and_stay_here(small_graph):
    async def play(client):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic first"}):
            for ask in (client.post(CHAT, json=chat(SUM), headers=headers), client.get("/metrics", headers=headers)):
                await refused(await ask, 401, "invalid_api_key")
        assert (await client.get("/health")).status == 200
        for key in ("first", "second"):
            answer = await client.post(CHAT, json=chat(SUM), headers={"Authorization": f"Bearer {key}"})
            assert answer.status == 200
        assert [headers["Authorization"] for headers in client.stub.headers] == ["Bearer theirs"] * 2

    played(small_graph, play, keys=["first", "second"], key="theirs")


def test_without_a_key_a_client_s_own_goes_on_to_the_server(small_graph):
    async def play(client):
        await client.post(CHAT, json=chat(SUM), headers={"Authorization": "Bearer mine", "X-Request-Id": "7"})
        assert (client.stub.headers[0]["Authorization"], client.stub.headers[0]["X-Request-Id"]) == ("Bearer mine", "7")

    played(small_graph, play)


def test_without_a_key_another_host_s_name_is_no_way_in(small_graph):
    async def play(client):
        answer = await client.post(CHAT, json=chat(SUM), headers={"Host": "evil.example:80"})
        await refused(answer, 403, "wrong_host")
        for host in ("localhost", "localhost:1", "[::1]:8080", "127.0.0.1"):
            assert (await client.post(CHAT, json=chat(SUM), headers={"Host": host})).status == 200

    played(small_graph, play)


@pytest.mark.parametrize(("server", "missing"), [("vllm", ["verse"]), ("sglang", [])])
def test_what_the_server_does_not_list_is_known_where_it_lists_adapters(server, missing, small_graph):
    async def play(client):
        assert await client.gateway.missing() == missing

    played(small_graph, play, server=server)


def test_metrics_count_requests_topics_and_times(small_graph):
    async def play(client):
        await client.post(CHAT, json=chat(SUM))
        await client.post(CHAT, json=chat(SUM, model="verse"))
        await client.post(CHAT, json=chat(SUM, model="none"))
        answer = await client.get("/metrics")
        assert answer.content_type == "text/plain"
        lines = (await answer.text()).splitlines()
        for line in (
            'topiclora_requests_total{path="/v1/chat/completions",status="200"} 2',
            'topiclora_requests_total{path="/v1/chat/completions",status="404"} 1',
            'topiclora_routed_total{topic="sums",adapter="maths"} 1',
            'topiclora_named_total{adapter="verse"} 1',
            "topiclora_choosing_seconds_count 1",
            'topiclora_upstream_seconds_bucket{le="+Inf"} 2',
            "topiclora_in_flight 1",
        ):
            assert line in lines

    played(small_graph, play)


def test_a_bug_is_no_silence(small_graph):
    async def play(client):
        client.gateway.choose._choose = lambda prompts: 1 / 0
        await refused(await client.post(CHAT, json=chat(SUM)), 500, "internal_error")

    played(small_graph, play)


def test_two_hundred_requests_at_a_time_lose_nothing(small_graph):
    texts = {SUM: "maths", POEM: "verse", JOKE: "mean"}

    async def play(client):
        async def ask(number):
            text = list(texts)[number % 3]
            answer = await client.post(CHAT, json=chat(text, stream=number % 2 == 0))
            return answer.status == 200 and texts[text] in await answer.text()

        assert all(await asyncio.gather(*map(ask, range(200))))
        assert len(client.stub.asked) == 200

    played(small_graph, play)
