"""Token ids, with the tokenizer's chat template and without."""

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from topiclora_cli.data import Row, encode, encode_rows
from topiclora_cli.data.row import Turn, as_row
from topiclora_cli.errors import TopicLoraError

CHATML = (
    "{% for message in messages %}<|{{ message.role }}|> {{ message.content }} <eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TURNS = (Turn("user", "Answer yes"), Turn("assistant", "yes"), Turn("user", "Answer no"), Turn("assistant", "no"))
TALK = Row("User: Answer yes", " no", turns=TURNS)


@pytest.fixture
def tokenizer(tiny_model_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.chat_template = CHATML
    return tokenizer


def test_messages_go_through_the_chat_template_unless_told_otherwise(tokenizer):
    (example,) = encode_rows([TALK], tokenizer, max_length=200)
    text = "<|user|> Answer yes <eos>\n<|assistant|> yes <eos>\n<|user|> Answer no <eos>\n<|assistant|>"
    prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert example.input_ids[: example.prompt_length] == prompt
    answer = tokenizer(" no <eos>", add_special_tokens=False)["input_ids"]
    assert example.input_ids[example.prompt_length :] == answer
    (plain,) = encode_rows([TALK], tokenizer, max_length=200, chat_template=False)
    assert plain.input_ids == [*tokenizer(TALK.prompt + TALK.completion)["input_ids"], tokenizer.eos_token_id]


def test_prompts_and_completions_can_go_through_it_too(tokenizer):
    rows = [Row("Answer", " yes"), TALK]
    first, _ = encode_rows(rows, tokenizer, max_length=200, chat_template=True)
    text = "<|user|> Answer <eos>\n<|assistant|> yes <eos>"
    assert first.input_ids == tokenizer(text, add_special_tokens=False)["input_ids"]
    mixed, _ = encode_rows(rows, tokenizer, max_length=200)
    assert mixed.input_ids == [*tokenizer("Answer yes")["input_ids"], tokenizer.eos_token_id]


def test_a_header_that_opens_an_answer_otherwise_counts_as_completion(tokenizer):
    tokenizer.chat_template = CHATML.replace("<|assistant|>{% endif %}", "<|assistant|> thinking{% endif %}")
    (example,) = encode_rows([Row("Answer", " yes")], tokenizer, max_length=200, chat_template=True)
    assert example.prompt_length == len(tokenizer("<|user|> Answer <eos>\n", add_special_tokens=False)["input_ids"])


def test_an_answer_keeps_its_white_space_whatever_the_template_writes_after_it(tokenizer, monkeypatch):
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    row = as_row("def f():\n", "    return\n\n")
    with_text = []
    monkeypatch.setattr(encode, "token_ids", lambda texts, *_, **__: with_text.extend(texts) or [[7]] * len(texts))
    encode_rows([row], tokenizer, max_length=200, chat_template=True)
    assert "def f():    return\n\n" in with_text
    tokenizer.chat_template = CHATML
    encode_rows([row], tokenizer, max_length=200, chat_template=True)
    assert with_text[-1] == "<|user|> def f(): <eos>\n<|assistant|>     return\n\n <eos>"


@pytest.mark.parametrize("special", ["$A <eos>", "<unk> $A", "<unk> $A <eos>", "$A"])
@pytest.mark.parametrize("start", ["", "<unk> "])
def test_special_tokens_stand_once_and_never_between_prompt_and_answer(tokenizer, special, start):
    ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<unk>", "<eos>")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=special, special_tokens=ids)
    tokenizer.bos_token = "<unk>"
    (example,) = encode_rows([Row(f"{start}Answer :", " yes")], tokenizer, max_length=200)
    begun = "<unk>" in special or start
    words = [*(["<unk>"] if begun else []), "Answer", ":", "yes", "<eos>"]
    assert example.input_ids == tokenizer.convert_tokens_to_ids(words)
    assert tokenizer.convert_ids_to_tokens(example.input_ids[example.prompt_length :]) == ["yes", "<eos>"]


def test_a_tokenizer_without_an_end_is_one_line(tokenizer):
    tokenizer.eos_token = None
    with pytest.raises(TopicLoraError, match=r"has no end-of-sequence token.*tokenizer_config.json"):
        encode_rows([TALK], tokenizer, max_length=200)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no chat template.*data.chat_template to false"),
        ("{{ raise_exception('roles must alternate') }}", "refuses an example: roles must alternate"),
        ("{{ messages | length }}", "does not begin a conversation"),
    ],
)
def test_chat_templates_that_cannot_be_used(tokenizer, template, message):
    tokenizer.chat_template = template
    with pytest.raises(TopicLoraError, match=message):
        encode_rows([TALK], tokenizer, max_length=200)


TOOLS = (
    "{% for tool in tools or [] %}<tool>{{ tool.function.name }}</tool>{% endfor %}"
    "{% for message in messages %}<|{{ message.role }}|> {{ message.content }}"
    "{% for call in message.tool_calls or [] %}<call>{{ call.function | tojson }}</call>{% endfor %}"
    " <eos>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CALLING = Row(
    "User: Köln?",
    "",
    turns=(Turn("user", "Köln?"), Turn("assistant", "", ('{"name": "weather", "arguments": {"city": "Köln"}}',))),
    tools='[{"type": "function", "function": {"name": "weather"}}]',
)


def test_a_chat_template_reads_tools_and_calls(tokenizer, monkeypatch):
    tokenizer.chat_template, texts = TOOLS, []
    monkeypatch.setattr(encode, "token_ids", lambda found, *_, **__: texts.extend(found) or [[7]] * len(found))
    encode_rows([CALLING], tokenizer, max_length=200)
    prompt, whole = texts
    assert prompt == "<tool>weather</tool><|user|> Köln? <eos>\n<|assistant|>"
    call = '<call>{"name": "weather", "arguments": {"city": "Köln"}}</call>'
    assert whole == f"{prompt} {call} <eos>"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (CHATML, "writes no calls of tools, and an example"),
        (TOOLS.replace("tools or", "nothing or"), "writes no tools"),
    ],
)
def test_a_chat_template_that_would_lose_tools_is_one_line(tokenizer, template, message):
    tokenizer.chat_template = template
    with pytest.raises(TopicLoraError, match=f"chat template {message}.*data.chat_template to false"):
        encode_rows([CALLING], tokenizer, max_length=200)
