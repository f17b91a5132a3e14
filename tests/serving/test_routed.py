"""The routed model behind OpenAI's API: answers as the model gives them, for whoever may ask."""

import contextlib
import threading
import time
import urllib.error
import urllib.request

import pytest
import torch

import topiclora_cli as topiclora
from tests.conftest import write_tiny_recipe
from tests.serving.helpers import asked_then_stopped, free_port

openai = pytest.importorskip("openai", reason="needs the extra `serve`")
uvicorn = pytest.importorskip("uvicorn", reason="needs the extra `serve`")
pytest.importorskip("fastapi", reason="needs the extra `serve`")

from topiclora_cli.recipe import load_recipe  # noqa: E402
from topiclora_cli.serving.door import Door, listen  # noqa: E402
from topiclora_cli.serving.routed import application  # noqa: E402
from topiclora_cli.stages.serve_routed import open_routed  # noqa: E402

QUESTION = "What is 12 times 7?"


@pytest.fixture(scope="module")
def run(tiny_model_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("routed")
    recipe = write_tiny_recipe(folder, tiny_model_dir)
    return topiclora.train(recipe, folder / "run", overrides={"train.max_steps": 2}).run


@contextlib.contextmanager
def server(routed, *keys):
    """The base address of a server in a thread."""
    with listen("127.0.0.1", 0) as listening:
        app = application(routed, Door("127.0.0.1", keys), 100_000)
        serving = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=serving.run, kwargs={"sockets": [listening]})
        thread.start()
        while not serving.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        finally:
            serving.should_exit = True
            thread.join(10)


@pytest.fixture(scope="module")
def address(run):
    with server(open_routed(load_recipe(str(run.path / "recipe.yaml")), run)) as at:
        yield at


@pytest.fixture
def client(address):
    with openai.OpenAI(base_url=address, api_key="none", max_retries=0) as made:
        yield made


def greedy(run, text, tokens):
    """What the model itself answers."""
    model, tokenizer = topiclora.load_model(run)
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    made = model.generate(input_ids=ids, max_new_tokens=tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    return tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)


def test_a_chat_and_a_completion_are_what_the_model_answers(run, client):
    asked = {"model": "auto", "max_tokens": 8, "temperature": 0}
    expected = greedy(run, QUESTION, 8)
    assert client.completions.create(prompt=QUESTION, **asked).choices[0].text == expected
    # The run was trained on single prompts, as which a message is put.
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    messages.append({"role": "user", "content": [{"type": "text", "text": QUESTION}]})
    answer = client.chat.completions.create(messages=messages, **asked)
    assert answer.choices[0].message.content == expected
    assert answer.usage.completion_tokens <= 8


def test_a_stream_adds_up_to_the_answer(run, client):
    asked = {"model": run.path.name, "max_tokens": 8, "temperature": 0, "stream": True}
    chunks = client.chat.completions.create(messages=[{"role": "user", "content": QUESTION}], **asked)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text.split() == greedy(run, QUESTION, 8).split()


def test_answers_are_drawn_unless_the_temperature_is_0(client):
    asked = {"model": "auto", "prompt": QUESTION, "max_tokens": 12}
    assert len({client.completions.create(**asked).choices[0].text for _ in range(5)}) > 1


def test_the_one_model_is_listed_and_no_other_is_loaded(run, client):
    assert [model.id for model in client.models.list()] == ["auto", run.path.name]
    with pytest.raises(openai.NotFoundError, match="There is no model 'gpt2'"):
        client.completions.create(model="gpt2", prompt=QUESTION)
    for path in ("/load_model", "/reset", "/responses"):
        with pytest.raises(openai.NotFoundError):
            client.post(path, cast_to=object, body={"model": "gpt2"})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_tokens": 0}, "'max_tokens'"),
        ({"temperature": "hot"}, "'temperature'"),
        ({"messages": []}, "'messages' is empty"),
        ({"messages": [{"role": "nobody", "content": "x"}]}, "unknown role 'nobody'"),
        ({"messages": [{"role": "user", "content": "x " * 300}]}, "The prompt has 300 tokens"),
        ({"messages": [{"role": "user", "content": "x " * 60_000}]}, "larger than 100000 bytes"),
        ({"extra_body": {"surprise": 1}}, "surprise"),
        ({"seed": -(10**30)}, "'seed'"),
        ({"extra_body": {"generation_config": "{"}}, "'generation_config'"),
        ({"extra_body": {"generation_config": '{"num_beams": "many"}'}}, "'generation_config'"),
        ({"logit_bias": {"word": 1}}, "'logit_bias'"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_openai_s_shape(settings, said, client):
    asked = {"model": "auto", "messages": [{"role": "user", "content": QUESTION}], **settings}
    with pytest.raises(openai.APIStatusError, match=said) as refused:
        client.chat.completions.create(**asked)
    assert refused.value.status_code in (400, 413)
    assert refused.value.body["message"]


def test_text_that_is_no_unicode_is_refused(address):
    for path, body in (
        ("completions", r'{"prompt": "\ud800"}'),
        ("chat/completions", r'{"messages": [{"role": "user", "content": "\ud800"}]}'),
    ):
        request = urllib.request.Request(f"{address}/{path}", body.encode(), {"Content-Type": "application/json"})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request)
        assert (refused.value.code, "half a character" in refused.value.read().decode()) == (400, True)


def test_an_answer_ends_where_the_model_does(client):
    answer = client.completions.create(model="auto", prompt="What " * 250, temperature=0)
    assert answer.usage.total_tokens <= 256


def test_the_command_answers_until_it_is_told_to_stop(run, run_cli):
    port, found = free_port(), []

    def ask():
        with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none") as asking:
            found.append(asking.completions.create(model="auto", prompt=QUESTION, max_tokens=8, temperature=0))

    asking = asked_then_stopped(port, ask)
    code, text = run_cli("serve", run.path, "--port", port)
    asking.join()
    assert code == 0, text
    assert f"as the model {run.path.name} or auto" in text
    assert found[0].choices[0].text == greedy(run, QUESTION, 8)


def test_a_key_is_asked_for(run):
    routed = open_routed(load_recipe(str(run.path / "recipe.yaml")), run)
    with server(routed, "secret") as at:
        for key, error in (("wrong", openai.AuthenticationError), ("secret", None)):
            asking = openai.OpenAI(base_url=at, api_key=key, max_retries=0)
            with pytest.raises(error) if error else contextlib.nullcontext():
                asking.models.list()
