"""The commands that start servers with a bundle, and addresses of those that run."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.serving.helpers import BUNDLE
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.runs.results.bundle import BundleAdapter
from topiclora_cli.serving.servers import start_line
from topiclora_cli.serving.upstream import upstream_url


def test_vllm_starts_with_every_adapter_and_a_rank_that_it_takes():
    assert start_line("vllm", BUNDLE, Path("my runs/b")) == (
        "vllm serve some/base --enable-lora --max-loras 3 --max-lora-rank 16 --lora-modules "
        "'mean=my runs/b/lora/mean' 'maths=my runs/b/lora/maths' 'verse=my runs/b/lora/verse'"
    )


def test_many_adapters_wait_in_memory():
    many = replace(BUNDLE, adapters=tuple(BundleAdapter(f"a{n}", f"lora/a{n}", 8) for n in range(40)))
    assert "--max-loras 16 --max-cpu-loras 40 --max-lora-rank 16" in start_line("vllm", many, Path("b"))


def test_a_rank_above_the_server_s_is_refused():
    with pytest.raises(TopicLoraError, match="rank 600, and vLLM takes at most 512"):
        start_line("vllm", replace(BUNDLE, max_rank=600), Path("b"))


def test_other_servers_start_in_their_own_way():
    assert start_line("sglang", BUNDLE, Path("b")).startswith(
        "python -m sglang.launch_server --model-path some/base --enable-lora --max-loras-per-batch 3 --lora-paths mean="
    )
    assert "--model-id some/base --default-adapter-source local" in start_line("lorax", BUNDLE, Path("b"))


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/"),
        ("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000/"),
        ("https://example.com/llm/v1", "https://example.com/llm"),
        ("http://[::1]:80", "http://[::1]/"),
    ],
)
def test_a_server_s_address_is_taken_with_and_without_v1(text, url):
    assert str(upstream_url(text)) == url


@pytest.mark.parametrize(
    "text", ["", "8000", "localhost:8000", "ftp://x", "http://", "http://x:99999", "http://x/?a=1"]
)
def test_what_is_no_server_s_address_is_refused(text):
    with pytest.raises(TopicLoraError, match="is no URL of a server"):
        upstream_url(text)


def test_a_password_in_an_address_is_refused():
    with pytest.raises(TopicLoraError, match="--upstream-key"):
        upstream_url("http://me:secret@127.0.0.1:8000")
