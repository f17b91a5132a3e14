"""`topiclora serve` as a command: a gateway from start to end, the upstream's own command, and mistakes in one line."""

import asyncio
import json
import shutil
import signal
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import asdict, replace

import pytest
from aiohttp.test_utils import TestServer
from huggingface_hub import constants

from tests.conftest import write_tiny_recipe
from tests.serving.helpers import BUNDLE, CHAT, Stub, asked_then_stopped, chat, free_port
from topiclora_cli.recipe import dump_recipe, load_recipe
from topiclora_cli.runs.results.files import write_result
from topiclora_cli.runs.run import RunDir
from topiclora_cli.serving import libraries
from topiclora_cli.serving.door import listen

URL = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def made(small_graph, tiny_model_dir, tmp_path_factory):
    """A bundle whose adapters have no weights, as no gateway reads them."""
    folder = tmp_path_factory.mktemp("made") / "bundle"
    for adapter in BUNDLE.adapters:
        (folder / adapter.folder).mkdir(parents=True)
        (folder / adapter.folder / "adapter_config.json").write_text("{}")
    small_graph.save(folder / "topic_graph")
    recipe = load_recipe(write_tiny_recipe(folder, tiny_model_dir), [("graph.encoder", "hash:64")])
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    write_result(folder / "bundle.json", BUNDLE)
    return folder


@pytest.fixture
def bundle(made, tmp_path):
    """A private copy of the bundle."""
    return shutil.copytree(made, tmp_path / "bundle")


@pytest.fixture
def run(bundle, tmp_path):
    """An untrained run."""
    return RunDir.create(tmp_path / "run", recipe_yaml=(bundle / "recipe.yaml").read_text(), name="tiny", seed=0)


@contextmanager
def running(stub):
    """The address of a stub that runs in a thread of its own."""
    started, stop, at = threading.Event(), None, []

    async def serve():
        nonlocal stop
        stop = asyncio.Event()
        async with TestServer(stub.application()) as server:
            at.append(str(server.make_url("")))
            started.set()
            await stop.wait()

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_until_complete, args=[serve()])
    thread.start()
    assert started.wait(10)
    yield at[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)


def answered(port, body):
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{CHAT}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer), dict(answer.headers)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_a_gateway_answers_until_it_is_told_to_stop(end, bundle, run_cli):
    port, found = free_port(), []
    with running(Stub()) as url:
        asking = asked_then_stopped(port, lambda: found.append(answered(port, chat("adding whole numbers"))), end)
        code, text = run_cli("serve", bundle, "--upstream", url, "--port", port)
    asking.join()
    assert code == 0, text
    assert found[0][0]["model"] == "maths"
    assert found[0][1]["X-Topic"] == "sums"
    assert f"http://127.0.0.1:{port}/v1" in text
    assert "does not list verse" in text


def test_an_upstream_that_is_not_up_yet_is_said(bundle, run_cli):
    port = free_port()

    def ask():
        with pytest.raises(urllib.error.HTTPError, match="502"):
            answered(port, chat("adding whole numbers"))

    asking = asked_then_stopped(port, ask)
    code, text = run_cli("serve", bundle, "--upstream", f"http://127.0.0.1:{free_port()}", "--port", port)
    asking.join()
    assert code == 0, text
    assert "does not answer yet: it takes no connection" in text


def test_the_upstream_s_command_is_all_that_is_printed(bundle, run, run_cli):
    shutil.copytree(bundle, run.path / "merged" / "topic-all")
    for source in (bundle, run.path):
        code, text = run_cli("serve", source, "--print-upstream")
        folder = bundle if source == bundle else run.path / "merged" / "topic-all"
        assert code == 0
        assert text.startswith(
            "vllm serve some/base --enable-lora --max-loras 3 --max-lora-rank 16 --lora-modules mean="
        )
        assert text.endswith(f"verse={folder}/lora/verse\n")
        assert text.count("\n") == 1


@pytest.fixture
def hub_cache(bundle, tmp_path, monkeypatch):
    """A hub's cache on a machine without a network, which holds the bundle as me/loras."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    kept = tmp_path / "hub" / "models--me--loras"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text("0" * 40)
    return shutil.copytree(bundle, kept / "snapshots" / ("0" * 40))


def test_a_bundle_on_the_hub_is_served_by_its_name(hub_cache, run_cli):
    code, text = run_cli("serve", "me/loras", "--print-upstream")
    assert code == 0, text
    assert text.endswith(f"verse={hub_cache}/lora/verse\n")


def test_what_the_hub_does_not_give_is_one_line(hub_cache, run_cli):
    one_line(
        run_cli("serve", "me/other", "--upstream", URL),
        "is no folder here and not in the hub's cache, and the hub cannot",
    )
    (hub_cache / "bundle.json").unlink()
    one_line(run_cli("serve", "me/loras", "--upstream", URL), "me/loras on the hub is no bundle of LoRAs")
    (hub_cache.parents[2] / "runs").mkdir()
    one_line(run_cli("serve", "hub/runs", "--upstream", URL), "hub/runs is neither a run nor a bundle")


def test_code_that_a_bundle_of_the_hub_would_bring_is_not_run(hub_cache, run_cli):
    recipe = load_recipe(str(hub_cache / "recipe.yaml"), [("model.trust_remote_code", True)])
    (hub_cache / "recipe.yaml").write_text(dump_recipe(recipe))
    one_line(run_cli("serve", "me/loras", "--upstream", URL), "me/loras asks for a base model with code of its own")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--upstream", "localhost:8000"], "is no URL of a server"),
        (["--upstream", URL, "--host", "0.0.0.0"], "no key is asked for"),
        (["--upstream", URL, "--api-key", ""], "An API key is empty"),
        (["--upstream", URL, "--server", "vlm"], "Did you mean 'vllm'?"),
        (["--upstream", URL, "--host", "192.0.2.1", "--api-key", "x"], "192.0.2.1:8080 cannot be listened on"),
    ],
)
def test_mistakes_of_the_command_are_one_line(options, said, bundle, run_cli):
    one_line(run_cli("serve", bundle, *options), said)


def one_line(result, said):
    code, text = result
    assert code == 2, text
    assert said in text
    assert text.count("\n") == 1


def test_a_port_in_use_is_one_line(bundle, run_cli):
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        one_line(run_cli("serve", bundle, "--upstream", URL, "--port", port), f"Port {port} on 127.0.0.1 is in use")


@pytest.mark.parametrize(
    ("remove", "said"),
    [
        ("bundle.json", "is neither a run nor a bundle"),
        ("lora/verse/adapter_config.json", "lora/verse holds no adapter"),
        ("topic_graph/graph.json", "topic_graph holds no topic graph"),
        ("recipe.yaml", "has no recipe.yaml"),
    ],
)
def test_a_bundle_that_lacks_something_is_one_line(remove, said, bundle, run_cli):
    (bundle / remove).unlink()
    one_line(run_cli("serve", bundle, "--upstream", URL), said)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"topics": {"sums": "maths"}}, "have different topics"),
        ({"topics": {**BUNDLE.topics, "sums": "nobody"}}, "names no adapter 'nobody'"),
        ({"adapters": BUNDLE.adapters * 2}, "does not name each adapter once"),
        ({"adapters": ()}, "names no adapter"),
    ],
)
def test_a_bundle_that_contradicts_itself_is_one_line(wrong, said, bundle, run_cli):
    write_result(bundle / "bundle.json", replace(BUNDLE, **wrong))
    one_line(run_cli("serve", bundle, "--upstream", URL), said)


@pytest.mark.parametrize("text", ["{", json.dumps({**asdict(BUNDLE), "format": 99}), json.dumps({"format": 2})])
def test_a_bundle_that_cannot_be_read_is_one_line(text, bundle, run_cli):
    (bundle / "bundle.json").write_text(text)
    one_line(run_cli("serve", bundle, "--upstream", URL), "bundle.json")


def test_a_run_without_a_bundle_or_a_graph_is_one_line(run, bundle, run_cli):
    one_line(run_cli("serve", run.path, "--upstream", URL), "has no topic graph")
    shutil.copytree(bundle / "topic_graph", run.path / "graph")
    one_line(run_cli("serve", run.path, "--upstream", URL), f"merge --run {run.path} --gates topic:all")
    one_line(run_cli("serve", run.path / "graph", "--upstream", URL), "is neither a run nor a bundle")


def test_what_the_routed_model_needs_is_said_before_anything_is_loaded(run, bundle, run_cli, monkeypatch):
    monkeypatch.setattr(libraries, "is_serve_available", lambda: False)
    one_line(run_cli("serve", run.path), "pip install 'topiclora[serve]'")
    one_line(run_cli("serve", bundle), "Add --upstream, or name a run")
    monkeypatch.setattr(libraries, "is_serve_available", lambda: True)
    one_line(run_cli("serve", run.path), "has no adapter yet")
    one_line(run_cli("serve", run.path / "none"), "is not a run directory")
