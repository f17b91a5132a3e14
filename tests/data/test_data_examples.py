"""Rows as examples: conversations, and topics from columns, constants and files."""

import json

import pytest

from topiclora_cli.data import load_data, load_rows
from topiclora_cli.data.row import Turn
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe.data import DataSection

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "two plus two?"},
    {"role": "assistant", "content": "four"},
    {"role": "user", "content": "and one more?"},
    {"role": "assistant", "content": "five"},
    {"role": "user", "content": "thanks"},
]


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def test_a_conversation_ends_at_the_last_turn_of_the_assistant(tmp_path):
    source = write(tmp_path / "talk.jsonl", [{"talk": TALK, "kind": "arithmetic"}])
    (row,) = load_rows(DataSection(source=source, messages="talk", topics="kind"), seed=0)
    assert row.completion == " five"
    assert row.prompt.startswith("System: Be brief.\n\nUser: two plus two?\n\nAssistant: four")
    assert row.prompt.endswith("User: and one more?\n\nAssistant:")
    assert row.topics == ("arithmetic",)
    assert [turn.role for turn in row.turns] == ["system", "user", "assistant", "user", "assistant"]


def test_every_turn_of_the_assistant_can_be_an_example(tmp_path):
    source = write(tmp_path / "talk.jsonl", [{"talk": TALK}, {"talk": TALK[1:3]}])
    rows = load_rows(DataSection(source=source, messages="talk", turns="all"), seed=0)
    assert [row.completion for row in rows] == [" four", " five", " four"]
    assert "five" not in rows[1].prompt


def test_conversations_without_an_answer_are_counted(tmp_path):
    source = write(tmp_path / "talk.jsonl", [{"talk": TALK}, {"talk": TALK[:2]}])
    data = load_data(DataSection(source=source, messages="talk"), seed=0)
    assert (len(data.train), data.counts[0].read, data.counts[0].empty) == (1, 2, 1)


def talk(*answers):
    return [
        part for answer in answers for part in ({"role": "user", "content": "Go on"}, {"role": "assistant", **answer})
    ]


def test_a_conversation_without_its_text_is_left_out_and_counted(tmp_path):
    talks = [
        talk({"content": "one"}, {"content": "two"}),
        talk({"content": "one"}, {"content": None}),
        [{"role": "user", "content": None}, {"role": "assistant", "content": "x"}],
        None,
    ]
    source = write(tmp_path / "talk.jsonl", [*({"talk": talk} for talk in talks), {"id": 1}])
    for turns, kept in (("last", [" two"]), ("all", [" one", " two", " one"])):
        data = load_data(DataSection(source=source, messages="talk", turns=turns), seed=0)
        assert [row.completion for row in data.train] == kept
        assert not any("None" in row.prompt for row in data.train)
        assert (data.counts[0].missing, dict(data.counts[0].wanting)) == (4, {"talk": 2, "talk.content": 2})


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "human", "content": "hi"}, {"role": "gpt", "content": "hello"}],
        [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}],
        [{"role": "User", "content": [{"type": "text", "text": "h"}, "i"]},
         {"role": "assistant", "content": [{"type": "text", "text": "hello"}], "tool_calls": None}],
    ],
)  # fmt: skip
def test_every_way_to_write_a_conversation_down(tmp_path, messages):
    (row,) = load_rows(DataSection(source=write(tmp_path / "t.jsonl", [{"m": messages}]), messages="m"), seed=0)
    assert (row.prompt, row.completion) == ("User: hi\n\nAssistant:", " hello")
    assert row.turns == (Turn("user", "hi"), Turn("assistant", "hello"))


@pytest.mark.parametrize(
    ("prompt", "completion", "whole"),
    [
        ("def inc(x):\n", "    y = x + 1\n    return y\n", "def inc(x):\n    y = x + 1\n    return y\n"),
        ("Code:", "\n    pass\n", "Code:\n    pass\n"),
        ("Answer:", "yes", "Answer: yes"),
        ("Answer: ", "yes ", "Answer: yes "),
        ("  Q\n", "\ta", "  Q\n\ta"),
    ],
)
def test_texts_are_trained_on_to_the_letter(tmp_path, prompt, completion, whole):
    source = write(tmp_path / "rows.jsonl", [{"q": prompt, "a": completion}])
    (row,) = load_rows(DataSection(source=source, prompt="{{ q }}", completion="{{ a }}"), seed=0)
    assert row.prompt + row.completion == whole
    assert (row.prompt, row.answer) == (prompt.rstrip(), completion)


def test_all_turns_of_a_conversation_are_held_out_together(tmp_path):
    talks = [[*TALK[:1], {"role": "user", "content": f"and {i}?"}, *TALK[2:]] for i in range(40)]
    source = write(tmp_path / "talk.jsonl", [{"talk": talk} for talk in talks])
    data = load_data(DataSection(source=source, messages="talk", turns="all", validation=0.3), seed=0)
    assert 4 <= len(data.validation) <= 40
    assert not {row.opening for row in data.validation} & {row.opening for row in data.train}
    assert len(data.validation) == 2 * len({row.opening for row in data.validation})


@pytest.mark.parametrize(
    ("column", "records", "message"),
    [
        ("tlak", [{"talk": TALK}], "data.messages uses a missing column: 'tlak'.*Columns: talk"),
        ("talk", [{"talk": ["hello", "you"]}], "data.messages.*something other than messages: 'hello'"),
        ("talk", [{"talk": [{"speaker": "human", "value": "x"}]}], "list of {role, content} or of {from, value}"),
        ("talk", [{"talk": [{"role": "narrator", "content": "x"}]}], "unknown role 'narrator'.*Known: system, .*gpt"),
        ("talk", [{"talk": [{"role": "user", "content": [{"type": "image_url"}]}]}], "type 'image_url'; only text"),
        ("talk", [{"talk": TALK[:2]}], "Nothing is left of the 1 rows .* empty prompt or completion 1"),
    ],
)
def test_what_is_no_conversation_is_explained(tmp_path, column, records, message):
    source = write(tmp_path / "talk.jsonl", records)
    with pytest.raises(TopicLoraError, match=message):
        load_rows(DataSection(source=source, messages=column), seed=0)


ROWS = [{"q": "1?", "a": "x", "task": "sums", "tags": ["arithmetic", "json"]}, {"q": "2?", "a": "y", "task": "rest"}]


def topics(source, **settings):
    data = DataSection(source=source, prompt="{{ q }}", completion="{{ a }}", **settings)
    return [row.topics for row in load_data(data, seed=0, known_topics={"arithmetic", "humor"}).train]


def test_topics_from_a_constant_a_column_and_nowhere(tmp_path):
    source = write(tmp_path / "rows.jsonl", ROWS)
    assert topics(source, topics=["humor"]) == [("humor",), ("humor",)]
    assert topics(source, topics="tags") == [("arithmetic", "json"), ()]
    assert topics(source) == [(), ()]


def test_topics_that_the_graph_does_not_know_can_be_dropped(tmp_path):
    source = write(tmp_path / "rows.jsonl", ROWS)
    assert topics(source, topics="tags", unknown_topics="drop") == [("arithmetic",), ()]


def test_those_of_the_embedded_families_can_be_dropped_too():
    section = DataSection(source="quickstart", per_family=1, unknown_topics="drop")
    rows = load_data(section, seed=0, known_topics={"arithmetic"}).train
    assert {row.topics for row in rows} == {("arithmetic",), ()}


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_topics_from_a_file(tmp_path, kind):
    source = write(tmp_path / "rows.jsonl", ROWS)
    table = tmp_path / f"topics.{kind}"
    if kind == "csv":
        table.write_text("key,topics\nsums,arithmetic; humor\n")
    else:
        write(table, [{"key": "sums", "topics": ["arithmetic", "humor"]}])
    wanted = {"file": str(table), "key": "{{ task }}"}
    assert topics(source, topics=wanted) == [("arithmetic", "humor"), ()]


def test_rows_and_files_without_topics_have_none(tmp_path):
    tags = [None, "", 3, ["json", None, True], "arithmetic"]
    rows = [{"q": str(number), "a": "x", "tags": tag, "task": tag} for number, tag in enumerate(tags)]
    source = write(tmp_path / "rows.jsonl", [*rows, {"q": "5", "a": "x"}])
    data = DataSection(source=source, prompt="{{ q }}", completion="{{ a }}", topics="tags")
    assert [row.topics for row in load_rows(data, seed=0)] == [(), (), ("3",), ("json", "true"), ("arithmetic",), ()]
    (tmp_path / "t.csv").write_text("key,topics\n3,humor;\narithmetic,\n")
    wanted = {"file": str(tmp_path / "t.csv"), "key": "{{ task }}"}
    assert topics(source, topics=wanted) == [(), (), ("humor",), (), (), ()]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ('{"key": "sums"}\n', "without key and topics"),
        ('{"key": null, "topics": []}\n', "without key and"),
        ("{", "cannot be read: line 1"),
    ],
)
def test_topic_files_that_cannot_be_used(tmp_path, content, message):
    source = write(tmp_path / "rows.jsonl", ROWS)
    table = tmp_path / "topics.jsonl"
    if content is not None:
        table.write_text(content)
    with pytest.raises(TopicLoraError, match=f"data.topics.file .*{message}"):
        topics(source, topics={"file": str(table), "key": "{{ task }}"})


def test_a_topic_file_that_no_row_finds_itself_in_is_an_error(tmp_path):
    source, table = (
        write(tmp_path / "rows.jsonl", ROWS),
        write(tmp_path / "t.jsonl", [{"key": "Sums", "topics": ["a"]}]),
    )
    with pytest.raises(TopicLoraError, match=r"data.topics.file .* gives no topic to any of the 2 examples"):
        topics(source, topics={"file": table, "key": "{{ task }}"})
