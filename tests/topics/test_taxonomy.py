"""The packaged taxonomy keeps what it should, and a user's file is read or refused in plain words."""

import json
from collections import Counter

import pytest
import yaml

from tests.conftest import DATA, needs_data
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.topics.encoder import HashEncoder
from topiclora_cli.topics.experts import assignment_report
from topiclora_cli.topics.fit import fit_topic_graph
from topiclora_cli.topics.graph import adjacency
from topiclora_cli.topics.settings import GraphSettings
from topiclora_cli.topics.taxonomy import load_taxonomy
from topiclora_cli.topics.taxonomy_file import read

FORMATS = {"numerical response", "non-language", "game play", "repeated interaction", "self play", "self evaluation"}


@pytest.fixture(scope="module")
def raw():
    return read("bigbench")[1]


def test_bigbench_keeps_every_keyword_with_three_tasks_that_is_no_format(bigbench, raw):
    counts = Counter(tag for tags in raw["tasks"].values() for tag in tags)
    assert set(bigbench.names) == {name for name, count in counts.items() if count >= 3} - FORMATS
    assert len(bigbench.topics) == 52
    assert counts["logical reasoning"] == 59
    assert len(raw["tasks"]) == 209
    assert all(tags and set(tags) <= set(bigbench.names) for tags in bigbench.tasks.values())


def test_every_description_is_one_line_of_its_own(raw):
    texts = [entry["description"] for entry in raw["topics"]]
    assert len(texts) == 81
    assert len(set(texts)) == len(texts)
    assert all(5 <= len(text.split()) <= 20 and "\n" not in text for text in texts)


def test_fewer_tasks_keep_more_topics(bigbench):
    assert "morphology" in load_taxonomy(min_tasks=1).names
    assert "morphology" not in bigbench.names
    assert not FORMATS & set(load_taxonomy(min_tasks=1).names)


def test_excluded_tasks_do_not_count(bigbench):
    without = load_taxonomy(exclude_tasks=["bbh"])
    assert "web_of_lies" in bigbench.tasks
    assert "web_of_lies" not in without.tasks
    assert "arithmetic" not in load_taxonomy(exclude_tasks=["arithmetic"]).tasks
    with pytest.raises(TopicLoraError, match="no_such_task"):
        load_taxonomy(exclude_tasks=["no_such_task"])


def test_mmlu_has_its_subjects_in_four_groups():
    mmlu = load_taxonomy("mmlu", min_tasks=3)
    assert Counter(topic.group for topic in mmlu.topics) == {
        "STEM": 18,
        "humanities": 13,
        "social sciences": 12,
        "other": 14,
    }
    assert not mmlu.tasks
    texts = [topic.description for topic in mmlu.topics]
    assert len(set(texts)) == 57
    assert all(5 <= len(text.split()) <= 20 and "\n" not in text for text in texts)


def test_descriptions_alone_join_the_subjects_of_mmlu():
    mmlu = load_taxonomy("mmlu")
    graph = fit_topic_graph(mmlu, HashEncoder(), GraphSettings(num_experts=4, width=16, steps=20))
    report = assignment_report(graph.assignment, adjacency(graph.edge_index, graph.edge_weight, 57))
    assert not report.dead
    assert not report.isolated


@needs_data
def test_mmlu_subjects_are_named_as_in_its_data_set():
    folders = {path.name for path in (DATA / "hub" / "cais" / "mmlu").iterdir() if path.is_dir()}
    assert set(load_taxonomy("mmlu").names) == folders


ROWS = [
    {"topic": "sums", "description": "adding numbers", "group": "maths", "tasks": ["a", "b"]},
    {"topic": "poems", "description": "verse, with rhyme", "tasks": ["b", "c"]},
]


def write(folder, kind, rows):
    path = folder / f"topics.{kind}"
    if kind == "yaml":
        path.write_text(yaml.safe_dump({"topics": rows}))
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        lines = [
            f'{row["topic"]},"{row["description"]}",{row.get("group", "")},{";".join(row.get("tasks", []))}'
            for row in rows
        ]
        path.write_text("\n".join(["topic,description,group,tasks", *lines]))
    return path


@pytest.mark.parametrize("kind", ["yaml", "jsonl", "csv"])
def test_user_files_mean_the_same_in_every_format(tmp_path, kind):
    taxonomy = load_taxonomy(write(tmp_path, kind, ROWS), min_tasks=2)
    assert taxonomy.names == ("sums", "poems")
    assert taxonomy.topics[1].description == "verse, with rhyme"
    assert [topic.group for topic in taxonomy.topics] == ["maths", ""]
    assert dict(taxonomy.tasks) == {"a": ("sums",), "b": ("sums", "poems"), "c": ("poems",)}


@pytest.mark.parametrize("kind", ["yaml", "jsonl", "csv"])
def test_a_topic_without_a_description_is_read_as_its_name(tmp_path, kind):
    rows = [ROWS[0], {**ROWS[1], "description": ""}]
    taxonomy = load_taxonomy(write(tmp_path, kind, rows), min_tasks=1)
    assert taxonomy.texts == ["sums: adding numbers", "poems"]
    graph = fit_topic_graph(taxonomy, HashEncoder(64), GraphSettings(num_experts=2, width=8, steps=2, cosine_floor=-2))
    assert graph.descriptions == ("adding numbers", "")


@pytest.mark.parametrize("kind", ["yaml", "jsonl"])
def test_examples_are_carried_for_the_topics_that_stay(tmp_path, kind):
    rows = [
        {**ROWS[0], "examples": ["3 + 4; and then?", "add 1, 2"]},
        ROWS[1],
        {"topic": "jokes", "tasks": ["c"], "examples": ["tell a joke"]},
    ]
    path = write(tmp_path, kind, rows)
    assert dict(load_taxonomy(path, min_tasks=2).examples) == {"sums": ("3 + 4; and then?", "add 1, 2")}
    assert set(load_taxonomy(path, min_tasks=1).examples) == {"sums", "jokes"}
    assert not load_taxonomy(write(tmp_path, kind, ROWS), min_tasks=1).examples


def test_a_cell_may_hold_lines_and_commas(tmp_path):
    (tmp_path / "a.csv").write_text('topic , description\nsums,"adding,\nsubtracting"\npoems,verse\n')
    assert [topic.description for topic in load_taxonomy(tmp_path / "a.csv").topics] == [
        "adding,\nsubtracting",
        "verse",
    ]


def test_topics_without_any_tags_are_all_kept(tmp_path):
    rows = [{k: v for k, v in row.items() if k != "tasks"} for row in ROWS]
    assert load_taxonomy(write(tmp_path, "yaml", rows), min_tasks=3).names == ("sums", "poems")


def test_topics_of_a_file_stay_however_few_their_tasks(tmp_path):
    rows = [{"topic": "contract law", "tasks": ["bar_exam"]}, {"topic": "arithmetic"}, {"topic": "poems"}]
    path = write(tmp_path, "yaml", [{"description": "", **row} for row in rows])
    assert load_taxonomy(path).names == ("contract law", "arithmetic", "poems")
    with pytest.raises(TopicLoraError, match=r"1 of 3 topics .* fewer than 1 tasks.* graph\.min_tasks"):
        load_taxonomy(path, min_tasks=1)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROWS[0], ROWS[0]], "'sums' is listed more than once"),
        ([], "empty"),
        ([ROWS[0]], "1 of 1 topics"),
        ([ROWS[0], {"description": "nameless"}], "topic 2 has no 'topic'"),
        ([ROWS[0], {"topic": "  ", "description": "blank"}], "topic 2 has no 'topic'"),
        ([ROWS[0], {"topic": " Sums"}], "'sums' and 'Sums' differ only by case or spaces"),
        ([{"topic": "short  tales"}, {"topic": "short tales"}], "differ only by case or spaces"),
        ([ROWS[0], "poems"], "topic 2 is 'poems', not an entry"),
        ([ROWS[0], {"topic": ["poems"]}], "topic 2: 'topic' is not a text"),
        ([ROWS[0], {"topic": "poems", "task": ["a"]}], "topic 2 has an unknown field 'task'"),
        ([ROWS[0], {"topic": "poems", "tasks": "a;b"}], "topic 2: 'tasks' is not a list of texts"),
        ([ROWS[0], {"topic": "poems", "examples": "a prompt"}], "topic 2: 'examples' is not a list of texts"),
        ([ROWS[0], {"topic": "poems", "examples": ["a prompt", " "]}], "topic 2: 'examples' .* none of them empty"),
        ([ROWS[0], {"topic": "poems", "examples": [{"prompt": "a"}]}], "topic 2: 'examples' is not a list of texts"),
    ],
)
def test_bad_lists_are_refused(tmp_path, rows, message):
    with pytest.raises(TopicLoraError, match=message) as caught:
        load_taxonomy(write(tmp_path, "yaml", rows), min_tasks=1)
    assert str(tmp_path / "topics.yaml") in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "topics: [", "cannot be parsed"),
        ("a.jsonl", "{not json}", "cannot be parsed"),
        ("a.yaml", "just words", "holds no topics"),
        ("a.txt", "topics", "unknown type"),
        ("a.yaml", "topics: [{topic: a, description: b}]\ntasks: [x]", "must map"),
        ("a.yaml", "topics: [{topic: a}]\ntask_sets: [x]", "'task_sets' must map"),
        ("a.yaml", "topics: [{topic: a}]\ntasks: {x: a}", "task 'x' is not a list"),
        ("a.yaml", "topics: [{topic: a, description: b}]\ntasks: {x: [c]}", "unknown topic 'c'"),
        ("a.yaml", "topics: [{topic: a}]\ntask: {x: [a]}", "unknown key 'task'.*Did you mean 'tasks'"),
        ("a.jsonl", '{"topic": "a"}\n\n{"topic": }', "cannot be parsed: line 3"),
        ("a.csv", "sums,adding numbers\npoems,verse", "'sums,adding numbers', has no column 'topic'"),
        ("a.csv", "", "no column 'topic'"),
        ("a.csv", "topic,about\nsums,numbers", "unknown column 'about'"),
        ("a.csv", "topic,examples\nsums,1 + 1", "unknown column 'examples'"),
        ("a.csv", "topic,description\nsums,adding, subtracting", "line 2 has more cells"),
        ("a.csv", 'topic,description\nsums,"adding', "cannot be parsed"),
    ],
)
def test_bad_files_are_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(TopicLoraError, match=message) as caught:
        load_taxonomy(tmp_path / name)
    assert str(tmp_path / name) in caught.value.message


@pytest.mark.parametrize("kind", ["yaml", "jsonl", "csv"])
def test_other_encodings_are_refused(tmp_path, kind):
    path = write(tmp_path, kind, ROWS)
    path.write_bytes(path.read_bytes() + "é".encode("latin-1"))
    with pytest.raises(TopicLoraError, match="is not UTF-8"):
        load_taxonomy(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(TopicLoraError, match="does not exist"):
        load_taxonomy(tmp_path / "none.yaml")
