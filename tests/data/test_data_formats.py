"""The formats that people have: told by their columns, read alike however they are written, refused by line and key."""

import json

import pyarrow.parquet
import pytest
from pyarrow import Table

from topiclora_cli.data import load_data
from topiclora_cli.data.reading import Reader, SourceCount
from topiclora_cli.data.row import Turn
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe.data import DataSection

SHAREGPT = [
    {"from": "system", "value": "Be brief."},
    {"from": "human", "value": "two plus two?"},
    {"from": "gpt", "value": "four"},
    {"from": "human", "value": "and one?"},
    {"from": "gpt", "value": "five"},
]
OPENAI = [
    {"role": {"human": "user", "gpt": "assistant"}.get(m["from"], m["from"]), "content": m["value"]} for m in SHAREGPT
]
WEATHER = {"name": "weather", "description": "of a city", "parameters": {"type": "object", "properties": {}}}
CALL = {"name": "weather", "arguments": {"city": "Köln", "days": 2}}
COMPLETIONS = [" four", " five"]


def write(folder, *records, name="chats.jsonl"):
    (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(folder / name)


def read(folder, *records, **keys):
    return load_data(DataSection(source=write(folder, *records), **keys), seed=0)


@pytest.mark.parametrize("keys", [{}, {"messages": "chat"}], ids=["told", "named"])
def test_a_cell_of_a_csv_file_holds_a_chat_as_json(tmp_path, keys):
    cells = ["id,chat", *('{},"{}"'.format(n, json.dumps(OPENAI).replace('"', '""')) for n in range(2)), '3,"[cut o"']
    (tmp_path / "chats.csv").write_text("\n".join(cells[:3]))
    data = load_data(DataSection(source=str(tmp_path / "chats.csv"), turns="all", **keys), seed=0)
    assert [row.completion for row in data.train] == COMPLETIONS * 2
    (tmp_path / "chats.csv").write_text("\n".join(cells))
    with pytest.raises(TopicLoraError, match=r"chats.csv, line 4: .*something other than messages: '\[cut o'"):
        load_data(DataSection(source=str(tmp_path / "chats.csv"), **keys), seed=0)


def test_weights_of_0_alone_are_nothing_to_train_on(tmp_path):
    with pytest.raises(TopicLoraError, match="every example has a loss_weight of 0"):
        read(tmp_path, {"messages": OPENAI}, loss_weight=0)
    quiet = [{**message, "weight": 0} for message in OPENAI]
    with pytest.raises(TopicLoraError, match="of weight 0, or with an empty prompt or completion 1"):
        read(tmp_path, {"messages": quiet})


@pytest.mark.parametrize(
    ("record", "taken", "completions"),
    [
        ({"conversations": SHAREGPT}, "sharegpt (conversations)", COMPLETIONS),
        ({"id": 1, "chat_log": SHAREGPT}, "sharegpt (chat_log)", COMPLETIONS),
        ({"system": "Be brief.", "conversations": SHAREGPT[1:]}, "sharegpt (conversations)", COMPLETIONS),
        ({"system": "Unused.", "conversations": SHAREGPT}, "sharegpt (conversations)", COMPLETIONS),
        ({"messages": OPENAI, "prompt": "two plus two?"}, "openai (messages)", COMPLETIONS),
        ({"conversations": OPENAI}, "openai (conversations)", COMPLETIONS),
        ({"prompt": OPENAI[:4], "completion": OPENAI[4:]}, "completion (prompt, completion)", COMPLETIONS),
        ({"input": OPENAI[:4], "output": "five"}, "completion (input, output)", COMPLETIONS),
        (
            {"instruction": "and", "input": "one?", "output": "five", "system": "Be brief.",
             "history": [["two plus two?", "four"]]},
            "alpaca (instruction, input, output)",
            COMPLETIONS,
        ),
    ],
)  # fmt: skip
def test_the_columns_tell_the_format_and_every_answer_is_an_example(tmp_path, record, taken, completions):
    data = read(tmp_path, record)
    assert (data.counts[0].format, [row.completion for row in data.train]) == (taken, completions)
    asked = "and\none?" if "alpaca" in taken else "and one?"
    assert data.train[-1].prompt == (
        f"System: Be brief.\n\nUser: two plus two?\n\nAssistant: four\n\nUser: {asked}\n\nAssistant:"
    )


def test_an_instruction_without_input_and_pairs_of_texts(tmp_path):
    data = read(tmp_path, {"instruction": "Say it", "output": "it"}, {"instruction": "Say", "input": None, "output": 2})
    assert [(row.prompt, row.completion) for row in data.train] == [
        ("User: Say it\n\nAssistant:", " it"),
        ("User: Say\n\nAssistant:", " 2"),
    ]
    pairs = read(tmp_path, {"question": "1?", "answer": "one"}, {"question": "2?", "answer": None}, {"question": "3?"})
    assert [(row.prompt, row.completion, row.turns) for row in pairs.train] == [("1?", " one", ())]
    assert pairs.counts[0].wanting == {"answer": 2}


def test_a_text_answered_by_messages_is_asked_by_the_user(tmp_path):
    (row,) = read(tmp_path, {"prompt": "two plus two?", "completion": OPENAI[2:3]}).train
    assert [(turn.role, turn.content) for turn in row.turns] == [("user", "two plus two?"), ("assistant", "four")]


def test_an_input_may_stand_in_place_of_an_instruction(tmp_path):
    rows = [{"instruction": empty, "input": "and one?", "output": "five"} for empty in ("", None)]
    data = read(tmp_path, *rows, {"instruction": "", "input": "", "output": "six"})
    assert [row.turns[0].content for row in data.train] == ["and one?", "and one?"]
    assert data.counts[0].wanting == {"instruction": 1}


def test_a_conversation_by_the_last_turn_or_by_all_together(tmp_path):
    (last,) = read(tmp_path, {"messages": OPENAI}, turns="last").train
    assert last.completion == " five"
    (whole,) = read(tmp_path, {"messages": OPENAI}, turns="together").train
    assert whole.prompt == "System: Be brief.\n\nUser: two plus two?\n\nAssistant:"
    assert whole.completion == " four\n\nUser: and one?\n\nAssistant: five"
    assert (whole.together, len(whole.turns)) == (True, 5)


WANTED = (
    Turn("user", "Köln?"),
    Turn("assistant", "", (json.dumps(CALL, ensure_ascii=False),)),
    Turn("tool", "sunny"),
    Turn("assistant", "Sunny."),
)


@pytest.mark.parametrize(
    "record",
    [
        {"tools": [WEATHER], "messages": [
            {"role": "user", "content": "Köln?"},
            {"role": "assistant", "content": None, "tool_calls": [
                {"type": "function", "function": {"name": "weather", "arguments": json.dumps(CALL["arguments"])}}]},
            {"role": "tool", "content": "sunny"},
            {"role": "assistant", "content": "Sunny."}]},
        {"functions": [WEATHER], "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Kö"}, {"type": "input_text", "text": "ln?"}]},
            {"role": "assistant", "function_call": CALL},
            {"role": "tool", "content": "sunny"},
            {"role": "assistant", "content": "Sunny."}]},
        {"tools": json.dumps([{"type": "function", "function": WEATHER}]), "conversations": [
            {"from": "human", "value": "Köln?"},
            {"from": "function_call", "value": json.dumps(CALL)},
            {"from": "observation", "value": "sunny"},
            {"from": "gpt", "value": "Sunny."}]},
    ],
)  # fmt: skip
def test_calls_of_tools_are_one_thing_however_they_are_written(tmp_path, record):
    call, answer = read(tmp_path, record).train
    assert answer.turns == WANTED
    assert call.turns == WANTED[:2]
    assert json.loads(call.tools) == [{"type": "function", "function": WEATHER}]
    assert call.completion == f" {WANTED[1].calls[0]}"
    assert answer.prompt.startswith('Tools: [{"type": "function"')


@pytest.mark.parametrize("nothing", [None, [], "", " ", "null", "[]"])
def test_no_tools_and_no_calls_are_written_in_many_ways(tmp_path, nothing):
    spoken = {"role": "assistant", "content": "four", "tool_calls": nothing, "function_call": nothing}
    (row,) = read(tmp_path, {"tools": nothing, "messages": [OPENAI[1], spoken]}).train
    assert (row.completion, row.tools, row.turns[-1].calls) == (" four", "", ())


def test_what_a_table_of_one_type_fills_up_with_nulls_is_no_argument(tmp_path):
    calls = [{"name": "weather", "arguments": {"city": "Köln"}}, {"name": "time", "arguments": {"zone": "CET"}}]
    rows = [{"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "tool_calls": [c]}]} for c in calls]
    pyarrow.parquet.write_table(Table.from_pylist(rows), tmp_path / "d.parquet")
    data = load_data(DataSection(source=str(tmp_path / "d.parquet")), seed=0)
    assert [json.loads(row.turns[-1].calls[0]) for row in data.train] == calls


def test_a_turn_of_weight_0_is_no_answer_to_learn(tmp_path):
    unweighed = [{**m, "weight": 0} if m["content"] == "five" else m for m in OPENAI]
    assert [row.completion for row in read(tmp_path, {"messages": unweighed}).train] == [" four"]
    assert [row.completion for row in read(tmp_path, {"messages": unweighed}, turns="last").train] == [" four"]


def test_a_row_weighs_what_its_column_says_and_a_turn_what_its_message_does(tmp_path):
    rows = [{"q": "1", "a": "x", "w": "0.5"}, {"q": "2", "a": "x", "w": 3}, {"q": "3", "a": "x", "w": None}]
    templates = {"prompt": "{{ q }}", "completion": "{{ a }}"}
    data = read(tmp_path, *rows, loss_weight={"column": "w"}, **templates)
    assert [row.loss_weight for row in data.train] == [0.5, 3.0]
    assert data.counts[0].wanting == {"w": 1}
    weighed = [{**m, "weight": 0.5} if m["content"] == "four" else m for m in OPENAI]
    chat = read(tmp_path, {"messages": weighed}, loss_weight=4)
    assert [row.loss_weight for row in chat.train] == [2.0, 4.0]
    (whole,) = read(tmp_path, {"messages": weighed}, loss_weight=4, turns="together").train
    assert (whole.loss_weight, [turn.weight for turn in whole.turns]) == (4.0, [1.0, 1.0, 0.5, 1.0, 1.0])
    families = load_data(DataSection(per_family=1, loss_weight=2), seed=0)
    assert {row.loss_weight for row in families.train} == {2.0}


def test_a_stream_makes_the_same_examples(tmp_path):
    section = DataSection(source=write(tmp_path, {"conversations": SHAREGPT}, {"conversations": SHAREGPT[1:3]}))
    reader = Reader(seed=0, streaming=True)
    streamed = list(reader.read(section, 0, "data", SourceCount("chats")))
    assert sorted(streamed, key=str) == sorted(load_data(section, seed=0).train, key=str)


PICTURE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}


@pytest.mark.parametrize(
    ("records", "keys", "message"),
    [
        ([{"a": 1, "b": 2}], {}, "line 1: data.source .* in none of the known formats; its columns: a, b.*sharegpt"),
        ([{"messages": OPENAI}], {"format": "sharegpt"}, "is not in the format sharegpt; its columns: messages"),
        ([{"messages": OPENAI}], {"format": "openai", "messages": "talk"}, "missing column: 'talk'"),
        (
            [{"messages": OPENAI}], {"format": "sharegpt", "messages": "messages"},
            "line 1: data.messages: .*'messages' has a message of role and content where sharegpt's have from and",
        ),
        (
            [{"conversations": SHAREGPT}, {"conversations": OPENAI}], {},
            "^chats.jsonl, line 2: data.format: the column 'conversations' has a message of role and content",
        ),
        (
            [{"conversations": SHAREGPT}, {"messages": OPENAI}], {},
            r"^chats.jsonl, line 2: data.format: this row is openai \(messages\), those before are sharegpt",
        ),
        (
            [{"conversations": SHAREGPT}, {"instruction": "Say", "output": "it"}], {},
            r"line 2: data.format: this row is alpaca \(instruction, output\), those before are sharegpt",
        ),
        ([{"messages": [{"role": "narrator", "content": "x"}]}], {}, "line 1: .*unknown role 'narrator'.*Known: s"),
        ([{"messages": [PICTURE]}], {}, "line 1: data.format: the column 'messages' .*type 'image_url'; only text"),
        (
            [{"image": "a.png", "conversations": [{"from": "human", "value": "<image>\nWhat?"}]}], {},
            "line 1: data.format: the text shows what is in the column 'image'.*only text is trained on",
        ),
        (
            [{"messages": [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}]}], {},
            "line 1: .*'messages' has a call of a tool that cannot be read: '{' is no JSON",
        ),
        ([{"messages": OPENAI, "tools": ["hammer"]}], {}, "line 1: .*'tools' cannot be read: 'hammer' is no"),
        ([{"messages": [{**OPENAI[2], "weight": -1}]}], {}, "has a message of the weight -1"),
        (
            [{"messages": OPENAI, "w": "much"}], {"loss_weight": {"column": "w"}},
            "line 1: data.loss_weight: the column 'w' holds 'much'. Weights are numbers from 0",
        ),
        ([{"messages": OPENAI}], {"loss_weight": {"column": "w"}}, "loss_weight.column uses a missing column: 'w'"),
        ([{"instruction": "a", "output": "b", "history": ["x"]}], {}, "line 1: .*'history' holds something other"),
        ([{"messages": None}, {"messages": []}], {}, "Nothing is left of the 2 rows .*without a value"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_with_file_line_and_key(tmp_path, monkeypatch, records, keys, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, *records)
    with pytest.raises(TopicLoraError, match=message):
        load_data(DataSection(source="chats.jsonl", **keys), seed=0)
