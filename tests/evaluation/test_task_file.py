"""Tasks of one's own, each in one file: chosen, written and found by a regex, in our format and in lm-eval's."""

import json

import pandas as pd
import pytest
from transformers import AutoTokenizer

from tests.conftest import DATA, needs_data
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.evaluation.harness import EvalRequest, evaluation_questions
from topiclora_cli.evaluation.loading import load_tasks
from topiclora_cli.evaluation.running import run_harness

ROWS = [
    {"q": f"{n} is", "options": ["odd", "even"], "place": (n + 1) % 2, "word": "odd" if n % 2 else "even", "of": of}
    for of in ("small", "large")
    for n in range(3 if of == "small" else 2)
]
CHOICE = "data: rows.jsonl\nquestion: q\nchoices: options\nanswer: word\n"
FREE = "data: rows.csv\nquestion: 'Say it: {{ q }}'\nanswer: word\n"


@pytest.fixture
def write(tmp_path, few_tasks, monkeypatch):
    """Write a task file beside data of three kinds; returns what --tasks is given."""
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    pd.DataFrame(ROWS).to_parquet(tmp_path / "rows.parquet")
    pd.DataFrame(ROWS).drop(columns="options").to_csv(tmp_path / "rows.csv", index=False)
    monkeypatch.chdir(tmp_path)

    def call(text, name="quiz.yaml"):
        (tmp_path / name).write_text(text)
        return f"./{name}"

    return call


def loaded(*names, **settings):
    return load_tasks(EvalRequest(tasks=names, **settings)).tasks


@pytest.mark.parametrize("data", ["rows.jsonl", "rows.parquet"])
@pytest.mark.parametrize("answer", ["word", "place", "'{{ place | letter }}'"])
def test_a_choice_is_right_by_its_text_its_place_or_its_letter(data, answer, write):
    text = CHOICE.replace("rows.jsonl", data).replace("answer: word", f"answer: {answer}")
    (task,) = loaded(write(text)).values()
    docs = list(task.eval_docs)
    assert [task.doc_to_text(doc) for doc in docs] == [row["q"] for row in ROWS]
    assert [doc["choices"][doc["answer"]] for doc in docs] == [row["word"] for row in ROWS]
    request = task.construct_requests(docs[0], "0 is", metadata=("quiz", 0, 1))
    assert [each.args for each in request] == [("0 is", " odd"), ("0 is", " even")]


def test_choices_may_be_a_list_of_templates_and_rows_be_left_out(write):
    text = "data: rows.csv\nquestion: q\nchoices: [odd, '{{ \"even\" }}']\nanswer: word\nfilter: of == 'large'\n"
    (task,) = loaded(write(text)).values()
    assert len(task.eval_docs) == 2
    assert task.eval_docs[0]["choices"] == ["odd", "even"]


def test_each_value_of_a_column_is_a_task(write):
    tasks = loaded(write(CHOICE + "by: of\nlimit: 2\n"), metrics={"quiz_small": "acc"})
    assert {name: len(task.eval_docs) for name, task in tasks.items()} == {"quiz_small": 2, "quiz_large": 2}


def test_shots_are_drawn_from_a_file_of_examples(write):
    (task,) = loaded(write(CHOICE + "examples: rows.csv\nshots: 2\n".replace("csv", "jsonl"))).values()
    context = task.fewshot_context(task.eval_docs[0], 2)
    assert context.count(" is ") == 2
    assert context.endswith("\n\n0 is")


@pytest.mark.parametrize(
    ("more", "said", "value"),
    [
        ("", " even ", 1),
        ("", "even, that is", 0),
        ("", "EVEN!", 0),
        ("ignore_case: true\nignore_punctuation: true\n", "EVEN!", 1),
        ("regex: 'answer is (\\w+)'\n", "So the answer is even, sir", 1),
        ("regex: 'answer is (\\w+)'\n", "even", 0),
    ],
)
def test_a_written_answer_is_the_same_text_or_what_a_regex_finds(more, said, value, write):
    (task,) = loaded(write(FREE + more)).values()
    doc = task.eval_docs[0]
    assert task.doc_to_text(doc) == "Say it: 0 is"
    (request,) = [task.construct_requests(doc, "x", metadata=("quiz", 0, 1))]
    request.resps = [said]
    for ensemble in task._filters:
        ensemble.apply([request])
    assert task.process_results(doc, [request.filtered_resps["none"]])["exact_match"] == value
    assert request.args[1] == {"until": ["\n"], "do_sample": False, "max_gen_toks": 32}


def test_files_stand_beside_names_and_are_scored(write, tiny_model, tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("topiclora_cli.evaluation.running._environment", dict)
    theirs = {
        **{"task": "theirs", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}}},
        **{"test_split": "test", "output_type": "multiple_choice", "doc_to_text": "q", "doc_to_choice": "options"},
        **{"doc_to_target": "place", "metric_list": [{"metric": "acc"}]},
    }
    names = [write(CHOICE), write(json.dumps(theirs), "own.yml"), write(FREE, "free.yaml"), "topiclora_syllogisms"]
    group = {"group": "both", "task": ["theirs"], "aggregate_metric_list": [{"metric": "acc"}]}
    request = EvalRequest(tasks=[*names, write(json.dumps(group), "group.yaml")], limit=2, include_path=str(tmp_path))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    result = run_harness(tiny_model, tokenizer, request, load_tasks(request), label="m", output_path=tmp_path / "out")
    assert set(result.scores) == {"quiz", "theirs", "free", "topiclora_syllogisms", "both"}
    assert not result.failed
    assert result.scores["quiz"].metrics["acc,none"].value == result.scores["theirs"].metrics["acc,none"].value
    assert list(evaluation_questions(EvalRequest(tasks=names[:1]))) == [row["q"] for row in ROWS]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: rows.csv\nqestion: q\nanswer: word\n", r"quiz\.yaml, line 2: no key 'qestion' is known.*'question'"),
        ("data: rows.csv\nquestion: [\n", r"quiz\.yaml, line 3: this is no valid YAML"),
        ("data: rows.csv\nquestion: q\ndata: other.csv\n", r"quiz\.yaml, line 3: .* key 'data' stands there twice"),
        ("- a\n", r"quiz\.yaml, line 1: a task file is a mapping"),
        ("data: rows.csv\nquestion: q\n", "line 1: there is no 'answer'"),
        (FREE + "shots: many\n", "line 4: shots is 'many', and is to be a whole number"),
        (FREE + "shots: 2\n", "line 4: shots are drawn from nothing"),
        (FREE + "examples: rows.csv\nshots: 6\n", r"line 5: shots is 6, and rows\.csv has 5 examples"),
        (FREE + "regex: '(a'\n", "line 4: regex is no regular expression"),
        (FREE + "regex: '(a)(b)'\n", "line 4: regex has 2 groups"),
        (CHOICE + "regex: a\n", "line 5: regex is for answers that are written"),
        (FREE.replace("rows.csv", "none.csv"), r"line 1: data is not at hand: there is no none\.csv"),
        (FREE.replace("rows.csv", "rows.txt"), "line 1: data 'rows.txt' is of no kind"),
        (FREE.replace("{{ q }}", "{{ qq }}"), "line 2: question uses a missing column: 'qq'. .*Columns: q, place"),
        (
            FREE.replace("answer: word", "answer: wrd"),
            "line 3: answer uses a missing column: 'wrd'. Did you mean 'word'",
        ),
        (FREE.replace("{{ q }}", "{{ q"), "line 2: question is not a valid Jinja template"),
        (CHOICE.replace("options", "word"), "line 3: choices gives 'even', which is no list"),
        (CHOICE.replace("answer: word", "answer: q"), r"rows\.jsonl, line 1: the answer '0 is' is none of the choices"),
        (FREE + "filter: of == 'x'\n", "line 1: data has no row to ask"),
        (FREE + "by: wrd\n", "line 4: by uses a missing column: 'wrd'. Did you mean 'word'"),
        (FREE + "by: off\n", "line 4: by is False, and is to be text"),
        ("task: t\ndataset_path: json\ntest_splitt: x\n", "line 3: lm-eval has no key 'test_splitt'.*'test_split'"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(text, message, write):
    with pytest.raises(TopicLoraError, match=message):
        loaded(write(text))


def test_a_row_without_an_answer_and_a_file_that_is_not_there(write, tmp_path):
    (tmp_path / "rows.csv").write_text("q,word\n1 is,odd\n2 is,\n")
    with pytest.raises(TopicLoraError, match=r"rows\.csv, line 3: the row has no value for 'word'"):
        loaded(write(FREE))
    with pytest.raises(TopicLoraError, match=r"There is no task file none\.yaml"):
        loaded("none.yaml")


def test_a_column_that_lm_evals_own_format_asks_for_in_vain_has_its_line(write):
    task = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}}, "test_split": "test"}
    lines = "\n".join(f"{key}: {json.dumps(value)}" for key, value in task.items())
    more = "output_type: generate_until\ndoc_to_text: '{{ qq.x }}'\ndoc_to_target: word\n"
    with pytest.raises(TopicLoraError, match=r"quiz\.yaml, line 6: the task cannot be posed: 'qq' is undefined"):
        loaded(write(f"task: t\n{lines}\n{more}"))


@needs_data
def test_big_bench_over_a_file_of_its_validation_rows(write):
    file = DATA / "bigbench/validation.parquet"
    text = f"""
data: {file}
filter: answer >= 0 and choices
question: "{{{{ input }}}}\\n{{{{ choices | options }}}}\\nAnswer:"
choices: choices
answer: answer
by: task
limit: 2
"""
    tasks = loaded(write(text, "bigbench.yaml"))
    rows = pd.read_parquet(file)
    chosen = rows[(rows.answer >= 0) & (rows.choices.str.len() > 0)]
    assert len(tasks) == chosen.task.nunique() > 30
    first = chosen[chosen.task == "anachronisms"].iloc[0]
    doc = tasks["bigbench_anachronisms"].eval_docs[0]
    assert doc["prompt"].startswith(first.input.strip()[:20])
    assert doc["choices"][doc["answer"]] == first.choices[first.answer]
