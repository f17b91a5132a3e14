"""From a training to an answer: topics exported, a server of plain LoRAs behind the gateway, and OpenAI's client."""

import asyncio

import pytest
import torch
from aiohttp import web
from aiohttp.test_utils import TestServer
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import topiclora_cli as topiclora
from tests.conftest import write_tiny_recipe
from topiclora_cli.runs.progress import LoggedProgress
from topiclora_cli.serving.door import Door
from topiclora_cli.serving.gateway import Behind, Gateway
from topiclora_cli.stages.serve import open_bundle, open_served
from topiclora_cli.topics.adapters import adapter_for

openai = pytest.importorskip("openai", reason="needs the extra `serve`")

PROMPTS = (
    "What is 12 times 7?",
    "Sort these words alphabetically: pear apple fig",
    "All rulers are vases. All vases are lamps. Is every ruler a lamp?",
)


class PlainLoras:
    """A server of stock LoRAs, as peft has them: completes a prompt with the adapter that `model` names."""

    def __init__(self, base, folder, bundle):
        self.tokenizer = AutoTokenizer.from_pretrained(base)
        first, *others = bundle.adapters
        model = AutoModelForCausalLM.from_pretrained(base)
        self.model = PeftModel.from_pretrained(model, folder / first.folder, adapter_name=first.name).eval()
        for adapter in others:
            self.model.load_adapter(folder / adapter.folder, adapter_name=adapter.name)

    def complete(self, name, prompt):
        self.model.set_adapter(name)
        ids = torch.tensor([self.tokenizer(prompt)["input_ids"]])
        with torch.inference_mode():
            made = self.model.generate(input_ids=ids, max_new_tokens=4, do_sample=False, pad_token_id=2)
        return self.tokenizer.decode(made[0, ids.shape[1] :])

    async def answer(self, request):
        body = await request.json()
        text = self.complete(body["model"], body["prompt"])
        choice = {"index": 0, "text": text, "finish_reason": "length", "logprobs": None}
        known = {"id": "1", "object": "text_completion", "created": 0}
        return web.json_response({**known, "model": body["model"], "choices": [choice]})

    def application(self):
        app = web.Application()
        app.router.add_post("/v1/completions", self.answer)
        return app


@pytest.fixture(scope="module")
def run(tiny_model_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    trained = topiclora.train(write_tiny_recipe(folder, tiny_model_dir), folder / "run").run
    topiclora.merge(trained, gates="topic:all", formats=["lora"])
    return trained


def test_a_client_gets_the_answer_of_the_adapter_that_the_topic_asks_for(run, tiny_model_dir):
    folder, bundle = open_bundle(run.path, LoggedProgress())
    loras = PlainLoras(tiny_model_dir, folder, bundle)
    prior = topiclora.load_prior(run)
    wanted = adapter_for(prior.graph, prior(PROMPTS).relevance, bundle.topics)
    assert len(set(wanted)) > 1

    async def play():
        async with TestServer(loras.application()) as server:
            behind = Behind(server.make_url("/"))
            app = Gateway(open_served(folder, bundle), behind, Door("127.0.0.1", [])).application(2**20)
            async with (
                TestServer(app) as front,
                openai.AsyncOpenAI(base_url=str(front.make_url("/v1")), api_key="none", max_retries=0) as client,
            ):
                for prompt, adapter in zip(PROMPTS, wanted, strict=True):
                    raw = await client.completions.with_raw_response.create(model="auto", prompt=prompt)
                    answer = raw.parse()
                    assert raw.headers["x-topic-adapter"] == answer.model == adapter
                    assert raw.headers["x-topic"] in [t for t, name in bundle.topics.items() if name == adapter]
                    assert answer.choices[0].text == loras.complete(adapter, prompt)

    asyncio.run(asyncio.wait_for(play(), 60))
