"""`topiclora chat`: one answer or a dialogue, with gates, beside the base; and how it ends."""

import io
import json

import pytest
from transformers import AutoTokenizer
from typer.testing import CliRunner

import topiclora_cli as topiclora
from tests.conftest import write_tiny_recipe
from topiclora_cli.cli import chat as command
from topiclora_cli.cli.app import app
from topiclora_cli.runs.progress import LoggedProgress
from topiclora_cli.stages import asking
from topiclora_cli.stages import chat as stage

QUESTION = "What is 12 times 7?"
TEMPLATE = (
    "{% for m in messages %}{{ m.role }} : {{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)


@pytest.fixture(scope="module")
def trained(tiny_model_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    return topiclora.train(
        write_tiny_recipe(folder, tiny_model_dir), folder / "run", overrides={"train.max_steps": 2}
    ).run


@pytest.fixture(scope="module")
def conversing(tiny_model_dir, tmp_path_factory):
    """A run on conversations, by a tokenizer with a chat template."""
    folder = tmp_path_factory.mktemp("conversing")
    model = folder / "model"
    model.mkdir()
    for file in tiny_model_dir.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(model)
    turns = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "84"}]
    data = folder / "chats.jsonl"
    data.write_text("".join(json.dumps({"messages": turns, "n": n}) + "\n" for n in range(8)))
    changes = {"data.source": str(data), "data.messages": "messages", "train.max_steps": 2, "adapter.method": "lora"}
    return topiclora.train(
        topiclora.load_recipe(write_tiny_recipe(folder, model), {**changes, "graph.taxonomy": "bigbench"}),
        folder / "run",
    ).run


def ask(*arguments, text=None):
    return CliRunner().invoke(app, ["chat", *map(str, arguments)], input=text)


@pytest.mark.parametrize("piped", [False, True])
def test_one_answer_is_all_that_is_printed(piped, trained):
    options = ["--run", trained.path, "--max-new-tokens", 4]
    result = ask(*options, text=f"{QUESTION}\n") if piped else ask(*options, "--prompt", QUESTION)
    assert result.exit_code == 0, result.output
    model, tokenizer = topiclora.load_model(trained)
    ids = tokenizer(QUESTION, return_tensors="pt").input_ids
    wanted = model.generate(input_ids=ids, max_new_tokens=4, do_sample=False, pad_token_id=2)[0, ids.shape[1] :]
    assert result.stdout.strip() == tokenizer.decode(wanted, skip_special_tokens=True).strip()


def test_an_empty_answer_is_said_beside_the_output(trained, monkeypatch):
    monkeypatch.setattr(stage.Chat, "ask", lambda *_, **__: (QUESTION, []))
    result = ask("--run", trained.path, "--prompt", QUESTION)
    assert (result.exit_code, result.stdout.strip()) == (0, "")
    assert "(The model ended without an answer.)" in result.stderr


def test_gates_are_shown_by_expert_and_topic(trained):
    result = ask("--run", trained.path, "--prompt", QUESTION, "--show-gates", "--max-new-tokens", 4)
    assert result.exit_code == 0, result.output
    assert "about: " in result.stdout
    assert all(word in result.stdout for word in ("expert", "prior %", "gates %", "topics"))
    routed = topiclora.route(trained, QUESTION)
    assert ", ".join(routed.topics.experts[0][:1]) in result.stdout


def test_the_base_answers_beside_and_stays_the_base(trained, tiny_model_dir):
    recipe = topiclora.load_recipe(trained.path / "recipe.yaml")
    talk = stage.open_chat(recipe, trained, LoggedProgress(), stage.Manner(6), show_gates=True)
    (_, before), (_, tuned) = talk.ask(QUESTION, str, base=True), talk.ask(QUESTION, str)
    with talk.model.disable_adapter():
        ids = talk.base.tokenizer(QUESTION, return_tensors="pt").input_ids
        alone = talk.model.generate(input_ids=ids, max_new_tokens=6, do_sample=False, pad_token_id=2)
    assert before == alone[0, ids.shape[1] :].tolist()
    gates = talk.gates(QUESTION, *talk.ask(QUESTION, str)).gates
    assert gates.tokens == len(tuned)
    assert sum(gates.mean) == pytest.approx(1, abs=1e-5)
    result = ask("--run", trained.path, "--prompt", QUESTION, "--base", "--max-new-tokens", 2)
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == ["base", "tuned"]


def test_a_dialogue_ends_with_the_input_and_remembers_conversations_alone(trained, conversing, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    asked = []
    encode = asking.encode_prompt
    monkeypatch.setattr(asking, "encode_prompt", lambda text, *a, **k: asked.append(text) or encode(text, *a, **k))
    for run in (trained, conversing):
        lines = iter([QUESTION, "", "And 3?", "/new" if run is conversing else "", "And 4?"])

        def typed(_, lines=lines):
            try:
                return next(lines)
            except StopIteration:
                raise EOFError from None

        monkeypatch.setattr(command.sys, "stdin", Terminal())
        monkeypatch.setattr(command.console, "input", typed)
        command.chat(run=run.path, max_new_tokens=2, prompt=None)
    assert asked[:3] == [QUESTION, "And 3?", "And 4?"]
    first, second, anew = asked[3:]
    assert first == f"user : {QUESTION} assistant :"
    assert second.startswith(f"user : {QUESTION} assistant : ")
    assert second.endswith("user : And 3? assistant :")
    assert anew == "user : And 4? assistant :"


def test_ctrl_c_stops_an_answer_and_then_the_dialogue(trained, monkeypatch, capsys):
    lines = iter([QUESTION, KeyboardInterrupt])

    def typed(_):
        line = next(lines)
        if line is KeyboardInterrupt:
            raise line
        return line

    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(command.sys, "stdin", type("Terminal", (), {"isatty": lambda self: True})())
    monkeypatch.setattr(command.console, "input", typed)
    monkeypatch.setattr(stage.Chat, "ask", stopped)
    command.chat(run=trained.path, prompt=None)
    assert "(stopped)" in capsys.readouterr().out


def test_mistakes_are_one_line(trained, conversing, run_cli):
    code, text = run_cli("chat", "--run", trained.path, "--prompt", " ")
    assert (code, "The prompt is empty" in text) == (2, True)
    code, text = run_cli("chat", "--run", trained.path, "--prompt", "word " * 300)
    assert (code, "The prompt has 300 tokens" in text) == (2, True)
    code, text = run_cli("chat", "--run", conversing.path, "--prompt", "hello", "--show-gates")
    assert (code, "has no routers" in text) == (2, True), text


def test_a_message_goes_where_the_recipes_template_has_its_one_place(tiny_recipe):
    def prompt(template):
        changes = {"data.source": "x.jsonl", "data.prompt": template, "data.completion": "{{ a }}"}
        recipe = topiclora.load_recipe(tiny_recipe, changes)
        return stage.Chat(recipe, None, None, None, stage.Manner())._asked("Two?")

    assert prompt("Q: {{ question | trim }}\nA:") == "Q: Two?\nA:"
    assert prompt("{{ question }} {{ context }}") == "Two?"
    assert prompt("{% for c in choices %}{{ c }}{% endfor %}") == "Two?"
