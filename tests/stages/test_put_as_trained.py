"""What somebody asks is put as the run was trained on it, for the model and for the topic graph alike."""

import pytest
from transformers import AutoTokenizer

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import load_recipe
from topiclora_cli.stages.asking import chat_ids, chat_text

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "What is 1 plus 1?"}]},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "And 2 plus 2? "},
]
TOOL = {"type": "function", "function": {"name": "add", "description": "adds", "parameters": {}}}
TEMPLATE = "{% for m in messages %}{{ m.role }} : {{ m.content }} {% endfor %}assistant :"


@pytest.fixture
def tokenizer(tiny_model_dir):
    return AutoTokenizer.from_pretrained(tiny_model_dir)


def recipe(path, **changes):
    return load_recipe(path, [(f"data.{key}", value) for key, value in changes.items()])


def test_a_run_of_single_prompts_reads_the_last_message(tiny_recipe, tokenizer):
    single = recipe(tiny_recipe)
    assert chat_text(single, CHAT, None, has_template=True) == "And 2 plus 2?"
    assert chat_ids(single, tokenizer, CHAT, None) == tokenizer("And 2 plus 2?")["input_ids"]


def test_a_message_is_filled_into_the_prompt_of_training(tiny_recipe, tokenizer, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"q": "x", "a": "y"}\n')
    templated = recipe(
        tiny_recipe, source=str(tmp_path / "rows.jsonl"), prompt="Question: {{ q }} Answer:", completion="{{ a }}"
    )
    text = "Question: And 2 plus 2?  Answer:"
    assert chat_text(templated, CHAT, None, has_template=True) == text
    assert chat_ids(templated, tokenizer, CHAT, None) == tokenizer(text)["input_ids"]


def test_a_run_of_conversations_reads_all_of_it_with_its_tools(tiny_recipe, tokenizer, tmp_path):
    (tmp_path / "chats.jsonl").write_text("{}\n")
    conversing = recipe(tiny_recipe, source=str(tmp_path / "chats.jsonl"), messages="messages")
    tokenizer.chat_template = TEMPLATE
    text = chat_text(conversing, CHAT, [TOOL], has_template=True)
    assert text.startswith('Tools: [{"type": "function", "function": {"name": "add"')
    assert text.endswith("Assistant: 2\n\nUser: And 2 plus 2? \n\nAssistant:")
    written = "system : Be brief. user : What is 1 plus 1? assistant : 2 user : And 2 plus 2?  assistant :"
    assert chat_ids(conversing, tokenizer, CHAT, None) == tokenizer(written)["input_ids"]


@pytest.mark.parametrize(
    ("messages", "tools", "said"),
    [
        (["hello"], None, "something other than messages"),
        ([{"role": "nobody", "content": "x"}], None, "unknown role 'nobody'"),
        ([{"role": "user"}], None, "message without text"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], None, "only text"),
        ([{"role": "user", "content": "x"}], [3], "tools cannot be read"),
    ],
)
def test_what_is_no_chat_is_refused(messages, tools, said, tiny_recipe, tokenizer, tmp_path):
    (tmp_path / "chats.jsonl").write_text("{}\n")
    conversing = recipe(tiny_recipe, source=str(tmp_path / "chats.jsonl"), messages="messages")
    with pytest.raises(TopicLoraError, match=said):
        chat_text(conversing, messages, tools, has_template=True)
    with pytest.raises(TopicLoraError, match=said):
        chat_ids(conversing, tokenizer, messages, tools)


def test_where_no_user_speaks_there_is_nothing_to_read(tiny_recipe):
    assert chat_text(recipe(tiny_recipe), CHAT[:1], None, has_template=True) == ""
