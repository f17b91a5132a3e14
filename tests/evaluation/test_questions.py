"""Questions of a recipe's own are put as its training examples are, and each kind of them is a task."""

import json
import math

import pytest

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.evaluation.choice_loss import CHOICE_LOSS
from topiclora_cli.evaluation.harness import EvalRequest
from topiclora_cli.evaluation.loading import load_tasks
from topiclora_cli.recipe import build_recipe
from topiclora_cli.stages.training_data import eval_request, training_data

ROWS = [
    {"task": task, "input": f"{task} {n}?", "choices": ["yes", "no", "so so"], "answer": n % 3, "topics": []}
    for task, count in (("odd", 9), ("even", 4))
    for n in range(count)
]


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def recipe(rows, questions=None, **data):
    data = {
        "source": str(rows),
        "prompt": "{{ input }}\n{% for c in choices | shuffled %}- {{ c }}\n{% endfor %}Answer: ",
        "completion": "{{ choices[answer] }}",
        **data,
    }
    section = {"tasks": ["topiclora_questions"], "questions": {"source": str(rows), **(questions or {})}}
    return build_recipe({"name": "x", "model": {"name": "m"}, "data": data, "eval": section}, where="here")


def test_a_task_of_each_kind_with_the_prompts_of_training(rows):
    mine = recipe(rows, {"by": "task"})
    tasks = load_tasks(eval_request(mine)).tasks
    assert {name: len(task.eval_docs) for name, task in tasks.items()} == {
        "topiclora_questions_odd": 9,
        "topiclora_questions_even": 4,
    }
    asked = {task.doc_to_text(doc): doc for task in tasks.values() for doc in task.eval_docs}
    for row in training_data(mine).train:
        doc = asked[row.prompt]
        assert doc["choices"][doc["answer"]] == row.answer
    task = tasks["topiclora_questions_odd"]
    request = task.construct_requests(task.eval_docs[0], task.eval_docs[0]["prompt"], metadata=("x", 0, 1))[0]
    assert request.args == (task.eval_docs[0]["prompt"], " yes")


def test_filter_and_limit_are_those_of_training_unless_said_otherwise(rows):
    mine = recipe(rows, {"by": "task", "limit": 3}, filter="answer != 2")
    asked = eval_request(mine).questions
    assert [q.kind for q in asked] == ["odd"] * 3 + ["even"] * 3
    assert all(q.choices[q.answer] != "so so" for q in asked)
    other = eval_request(recipe(rows, {"filter": "task == 'odd'"}, filter="task == 'even'")).questions
    assert len(other) == 9
    assert {q.kind for q in other} == {"all"}


def test_a_limit_of_each_kind_does_not_depend_on_the_others(rows):
    few = training_data(recipe(rows, limit=2, limit_by="task")).train
    assert [row.kind for row in few] == ["odd", "odd", "even", "even"]
    alone = training_data(recipe(rows, limit=2, limit_by="task", filter="task == 'even'")).train
    assert alone == few[2:]
    assert training_data(recipe(rows, limit=2, limit_by="task")).counts[0].surplus == 9


@pytest.mark.parametrize(
    ("questions", "data", "message"),
    [
        ({"choices": "options"}, {}, r"eval\.questions\.choices uses a missing column: 'options'"),
        ({"by": "subject"}, {}, r"eval\.questions\.by uses a missing column: 'subject'"),
        ({"choices": "choices[:1]"}, {}, "which is none of its choices"),
        ({"filter": "false"}, {}, "has no question for its filter"),
        ({"source": "none.parquet"}, {}, r"eval\.questions\.source 'none.parquet' does not exist"),
        ({}, {"limit": 2, "limit_by": "subject"}, r"data\.limit_by uses a missing column: 'subject'"),
    ],
)
def test_mistakes(rows, questions, data, message):
    mine = recipe(rows, questions, **data)
    with pytest.raises(TopicLoraError, match=message):
        _ = eval_request(mine), training_data(mine)


def test_mistakes_of_the_recipe(rows):
    with pytest.raises(TopicLoraError, match="limit_by says of what limit is counted"):
        recipe(rows, limit_by="task")
    values = {"name": "x", "model": {"name": "m"}, "eval": {"tasks": ["topiclora_questions"]}}
    with pytest.raises(TopicLoraError, match="nothing says which"):
        eval_request(build_recipe(values, where="here"))
    values["eval"]["questions"] = {"source": str(rows)}
    with pytest.raises(TopicLoraError, match=r"eval\.questions are put by data\.prompt"):
        build_recipe(values, where="here")


def test_choice_loss_is_the_right_choices_share(rows):
    tasks = load_tasks(eval_request(recipe(rows)))
    (task,) = tasks.tasks.values()
    doc = next(doc for doc in task.eval_docs if doc["answer"] == 1)
    result = task.process_results(doc, [(-2.0, False), (-1.0, True), (-3.0, False)])
    shares = [math.exp(-2), math.exp(-1), math.exp(-3)]
    assert result[CHOICE_LOSS] == pytest.approx(-math.log(shares[1] / sum(shares)))
    assert result["acc"] == 1.0
    assert task.higher_is_better()[CHOICE_LOSS] is False


def test_choice_loss_of_stock_forms(task_folder):
    names = ["choice", "pairs", "over", "cloze"]
    tasks = load_tasks(EvalRequest(tasks=names, include_path=str(task_folder), metrics=["choice_loss"])).tasks
    assert CHOICE_LOSS not in tasks["cloze"].aggregation()
    for name in ("choice", "pairs"):  # the right one by its text, and by its place
        task = tasks[name]
        doc = task.eval_docs[0]  # "0 is even"
        even = task.process_results(doc, [(-1.0, False), (-1.0, False)])[CHOICE_LOSS]
        sure = task.process_results(doc, [(-9.0, False), (-1.0, False)])[CHOICE_LOSS]
        assert even == pytest.approx(math.log(2))
        assert sure < 0.001
