"""`topiclora train` on data of one's own: mixtures, chat, what is reported, and one line for what is wrong with it."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from transformers import AutoTokenizer

from tests.conftest import stop_at
from topiclora_cli.runs.results.metrics import read_metrics

ROWS = [{"q": f"Sort these words {i}", "a": "yes", "kind": ["arithmetic"], "n": i} for i in range(24)]
TALKS = [
    {"talk": [{"role": "user", "content": f"Sort {i}"}, {"role": "assistant", "content": "no"}]} for i in range(12)
]
CHATML = "{% for m in messages %}{{ m.role }} : {{ m.content }} <eos> {% endfor %}"


@pytest.fixture
def recipe(tiny_recipe, tmp_path):
    """Writes the tiny recipe with another data section; data files lie beside it."""
    for name, records in (("rows", ROWS), ("talks", TALKS)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))

    def make(data, **sections):
        values = {**yaml.safe_load(tiny_recipe.read_text()), "data": data, **sections}
        path = tmp_path / "own.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return make


FILE = {"source": "rows.jsonl", "prompt": "{{ q }}", "completion": "{{ a }}", "topics": "kind"}


def test_a_mixture_trains_evaluates_and_says_what_it_read(recipe, run_cli):
    sources = [
        {**FILE, "weight": 3, "filter": "n > 3", "unknown_topics": "drop"},
        {"source": "talks.jsonl", "messages": "talk", "weight": 1},
    ]
    data = {"sources": sources, "stopping_strategy": "all_exhausted", "validation": 6, "chat_template": False}
    path = recipe({**data, "dedup": "exact", "decontaminate": True})
    code, text = run_cli("train", "--recipe", path, "--out", "r")
    assert code == 0, text
    assert "Training data" in text
    first, second = json.loads(Path("r/run.json").read_text())["stages"]["train"]["data"]
    assert (first["label"], first["read"], first["filtered"]) == ("rows.jsonl", 24, 4)
    assert first["held_out"] + second["held_out"] == 6
    assert first["used"] > second["used"] > 0
    assert first["mean_tokens"] > 0
    assert run_cli("eval", "--run", "r")[0] == 0
    assert run_cli("merge", "--run", "r")[0] == 0
    code, text = run_cli("eval", "--run", "r", "--set", "eval.chat_template=true")
    assert (code, "has no chat template" in text) == (2, True), text


def test_conversations_train_through_the_chat_template(recipe, run_cli, tiny_model_dir, tmp_path):
    model = tmp_path / "chat"
    model.mkdir()
    for file in tiny_model_dir.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(model)
    path = recipe({"source": "talks.jsonl", "messages": "talk"}, model={"name": str(model)})
    code, text = run_cli("train", "--recipe", path, "--out", "r")
    assert code == 0, text
    assert "talks.jsonl" in text
    code, text = run_cli("eval", "--run", "r", "--set", "eval.chat_template=true")
    assert code == 0, text
    (samples,) = Path("r/eval").glob("*/tuned/samples_topiclora_word_sorting_*.jsonl")
    first = json.loads(samples.read_text().splitlines()[0])
    assert first["arguments"]["gen_args_0"]["arg_0"].startswith("user : ")


def test_a_stream_trains_exports_and_resumes_to_the_same_loss(recipe, run_cli):
    sources = [{**FILE, "weight": 1}, {"source": "talks.jsonl", "messages": "talk", "weight": 1}]
    data = {"sources": sources, "streaming": True, "chat_template": False, "validation": 0.2}
    path = recipe(data, graph={"encoder": "lm", "steps": 20, "width": 16, "tagged_prompts": 16})
    code, text = run_cli("train", "--recipe", path, "--out", "r")
    assert code == 0, text
    assert "the first 2048 examples of each source" in text
    metrics = [json.loads(line) for line in Path("r/metrics.jsonl").read_text().splitlines()]
    metrics = [row for row in metrics if "loss" in row]
    assert metrics[-1]["loss_kl"] > 0
    assert run_cli("eval", "--run", "r")[0] == 0
    assert run_cli("merge", "--run", "r")[0] == 0
    stop_at(Path("r"), 4)
    code, text = run_cli("train", "--run", "r", "--resume")
    assert (code, "Resuming from" in text) == (0, True), text
    resumed = [json.loads(line) for line in Path("r/metrics.jsonl").read_text().splitlines()]
    resumed = [row for row in resumed if "loss" in row]
    assert resumed[-1]["step"] == 6
    assert resumed[-1]["loss"] == pytest.approx(metrics[-1]["loss"], abs=1e-6)


MISTAKES = {
    "unknown topic": ({**FILE, "topics": ["arithmetics"]}, "data.topics has a topic 'arithmetics'", "'arithmetic'"),
    "all too long": ({**FILE, "max_length": 8, "prompt": "{{ q * 9 }}"}, "None of the 24 examples fits", "max_length"),
    "filter": ({**FILE, "filter": "n >"}, "data.filter is not a valid Jinja expression", ""),
    "filter drops all": ({**FILE, "filter": "n > 99"}, "data.filter drops all 24 rows", ""),
    "missing column": ({**FILE, "prompt": "{{ x }}"}, "data.prompt uses a missing column: 'x'", "Columns: q, a"),
    "masked": ({**FILE, "completion": "{{ '  ' }}"}, "Nothing is left of the 24 rows", "empty prompt or completion 24"),
    "no chat template": ({"source": "talks.jsonl", "messages": "talk"}, "has no chat template", "data.chat_template"),
    "chat asked for": ({**FILE, "chat_template": True}, "has no chat template", "data.chat_template"),
    "no file": ({**FILE, "source": "none.jsonl"}, "data.source 'none.jsonl' does not exist", "Looked for it from"),
    "corrupt parquet": ({**FILE, "source": "bad.parquet"}, "bad.parquet'", "parquet"),
    "empty file": ({**FILE, "source": "empty.jsonl"}, "empty.jsonl' is an empty file", ""),
    "blank file": ({**FILE, "source": "blank.jsonl"}, "blank.jsonl' has no examples", ""),
    "weight": ({"sources": [{**FILE, "weight": 0}]}, "data.sources.0.weight", "greater than 0"),
    "endless": ({**FILE, "streaming": True}, "data.streaming has no end", "train.max_steps"),
    "definition": ({"name": "gms8k"}, "no source definition is called 'gms8k'", "Did you mean 'gsm8k'"),
}


@pytest.mark.parametrize(("data", "message", "hint"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_are_one_line_and_exit_2(data, message, hint, recipe, run_cli, tmp_path):
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no parquet at all PAR1")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "blank.jsonl").write_text("\n\n")
    endless = ["--set", "train.max_steps=null"] if data.get("streaming") else []
    code, text = run_cli("train", "--recipe", recipe(data), "--out", "r", *endless)
    assert code == 2, text
    (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
    assert message in line
    assert hint in line
    assert "Traceback" not in text
    assert not Path("r/adapter").exists()


def test_even_priors_that_would_leave_the_kl_no_weight_are_refused(tiny_recipe, run_cli, tmp_path):
    even = ["train", "--recipe", tiny_recipe, "--set", "graph.control=uniform"]
    code, text = run_cli(*even, "--out", tmp_path / "refused")
    assert (code, "leaves the KL no weight" in text) == (2, True), text
    code, text = run_cli(*even, "--out", tmp_path / "run", "--set", "loss.kl.confidence_weighted=false")
    assert code == 0, text
    assert all(row.values["loss_kl"] > 0 for row in read_metrics(tmp_path / "run" / "metrics.jsonl"))


@pytest.mark.parametrize("streaming", [False, True])
def test_chats_of_several_files_train_in_all_turns_at_once(recipe, run_cli, tiny_model_dir, tmp_path, streaming):
    model = tmp_path / "marked"
    shutil.copytree(tiny_model_dir, model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }} : {% if m.role == 'assistant' %}{% generation %}{{ m.content }}<eos>"
        "{% endgeneration %}{% else %}{{ m.content }}{% endif %} {% endfor %}"
    )
    tokenizer.save_pretrained(model)
    (tmp_path / "chats").mkdir()
    for number in range(16):
        turns = [("human", f"Sort {number}"), ("gpt", "yes"), ("human", "now"), ("gpt", "no")]
        chat = [{"from": role, "value": text, "weight": 0.5 if text == "no" else None} for role, text in turns]
        (tmp_path / "chats" / f"{number}.jsonl").write_text(json.dumps({"conversations": chat}) + "\n")
    data = {"source": "chats/*.jsonl", "turns": "together", "streaming": streaming, "validation": 0.25}
    train = {"batch_size": 4, "max_steps": 2, "packing": True, "precision": "float32"}
    code, text = run_cli("train", "--recipe", recipe(data, model={"name": str(model)}, train=train), "--out", "r")
    assert code == 0, text
    assert "chats/*.jsonl: read as sharegpt (conversations)." in text
    (found,) = json.loads(Path("r/run.json").read_text())["stages"]["train"]["data"]
    assert (found["read"], found["used"] + found["held_out"], found["lengths"]["longest"]) == (16, 16, 15)
    code, text = run_cli("data", "preview", "--run", "r", "-n", "1")
    assert (code, "⟦ yes <eos>⟧" in text, "loss on 4, at weight 0.5" in text) == (0, True, True), text
