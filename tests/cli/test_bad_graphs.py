"""Every bad taxonomy and every damaged or unsuitable graph is one clear line of the real command line, exit code 2."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tests.conftest import TINY, write_tiny_recipe
from topiclora_cli.cli.app import main
from topiclora_cli.topics import store
from topiclora_cli.topics.store import META_FILE, TENSOR_FILE

TOPICS = "topics: [{topic: sums}, {topic: tales}, {topic: maps}, {topic: laws}, {topic: Sums of money}]"
TAXONOMIES = {
    "duplicate": ("a.yaml", "topics: [{topic: sums}, {topic: sums}]", "'sums' is listed more than once"),
    "look-alikes": ("a.yaml", "topics: [{topic: sums}, {topic: ' SUMS'}]", "differ only by case or spaces"),
    "no name": ("a.yaml", "topics: [{topic: ''}, {topic: sums}]", "topic 1 has no 'topic'"),
    "one topic": ("a.yaml", "topics: [{topic: sums}]", "needs at least two topics"),
    "unknown field": ("a.jsonl", '{"topic": "sums", "exmples": ["1 + 1"]}', "Did you mean 'examples'"),
    "empty example": ("a.jsonl", '{"topic": "sums", "examples": [""]}', "topic 1: 'examples' is not a list"),
    "unknown tag": ("a.yaml", TOPICS + "\ntasks: {essay: [tails]}", "Did you mean 'tales'"),
    "no header": ("a.csv", "sums,adding numbers\ntales,telling", "has no column 'topic'"),
    "wrong column": ("a.csv", "topic,decription\nsums,adding", "unknown column 'decription'"),
    "not UTF-8": ("a.csv", "topic\nna\u00efvet\u00e9".encode("latin-1"), "is not UTF-8 text"),
    "too few": ("a.yaml", "topics: [{topic: sums}, {topic: tales}]", "adapter.num_experts (4) exceeds the 2 topics"),
    "no edges": ("a.csv", "topic,tasks\nsums,a;b;c\ntales,d;e;f", "has no edges"),
    "strange training tags": ("a.yaml", TOPICS, "data.topics has a topic"),
}


def assert_one_clear_line(code, text, message):
    assert code == 2, text
    assert message in text
    assert len([line for line in text.splitlines() if line.startswith("error: ")]) == 1
    assert "Traceback" not in text


@pytest.mark.parametrize(("name", "content", "message"), TAXONOMIES.values(), ids=TAXONOMIES.keys())
def test_bad_taxonomies(name, content, message, tiny_recipe, run_cli, tmp_path):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    settings = ["--set", f"graph.taxonomy={tmp_path / name}"]
    if message != TAXONOMIES["strange training tags"][2]:
        settings += ["--set", "graph.tagged_prompts=0"]  # the prompts' own topics are none of these
    if message == "has no edges":
        settings += ["--set", "adapter.num_experts=2"]
    code, text = run_cli("build-graph", "--recipe", tiny_recipe, "--out", "r", *settings)
    assert_one_clear_line(code, text, message)
    assert not (tmp_path / "r" / "graph").exists()


@pytest.fixture(scope="module")
def built(tiny_model_dir, tmp_path_factory):
    """A run with a graph made by the base model's own encoder, and a private copy of that base model."""
    folder = tmp_path_factory.mktemp("built")
    model = shutil.copytree(tiny_model_dir, folder / "model")
    recipe = write_tiny_recipe(folder, model)
    settings = yaml.safe_load(recipe.read_text())
    recipe.write_text(yaml.safe_dump({**settings, "graph": {**settings["graph"], "encoder": "lm"}}))
    with pytest.raises(SystemExit) as stop:
        main(["build-graph", "--recipe", str(recipe), "--out", str(folder / "run")])
    assert not stop.value.code
    return folder


@pytest.fixture
def run(built, tmp_path):
    return shutil.copytree(built / "run", tmp_path / "run")


def edit(folder: Path, **changes):
    meta = json.loads((folder / META_FILE).read_text()) | changes
    (folder / META_FILE).write_text(json.dumps(meta | {"sha256": store._fingerprint(meta)}))


def cut(path: Path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES = {
    "other version": (lambda folder: edit(folder, format_version=0), "topic graph format 0, not 1"),
    "broken hash": (lambda folder: edit(folder, tensors_sha256="0" * 64), "is damaged"),
    "altered": (lambda f: (f / META_FILE).write_text((f / META_FILE).read_text().replace("gcn", "gat")), "was altered"),
    "truncated tensors": (lambda folder: cut(folder / TENSOR_FILE), "is damaged"),
    "truncated names": (lambda folder: cut(folder / META_FILE), "cannot be read"),
    "not JSON": (lambda folder: (folder / META_FILE).write_text("topics"), "cannot be read"),
    "not UTF-8": (lambda folder: (folder / META_FILE).write_bytes(b"\xff\xfe"), "cannot be read"),
    "no tensors": (lambda folder: (folder / TENSOR_FILE).unlink(), "is missing"),
    "topics that do not fit": (lambda folder: edit(folder, topics=["sums"]), "no valid topic graph"),
}


@pytest.mark.parametrize("command", [["train"], ["route", "What is 3 + 4?"]], ids=["train", "route"])
@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_graphs(command, damage, message, run, run_cli):
    damage(run / "graph")
    assert_one_clear_line(*run_cli(*command, "--run", run), message)


@pytest.mark.parametrize("command", [["train"], ["route", "What is 3 + 4?"]], ids=["train", "route"])
def test_an_encoder_of_another_width(command, built, run, run_cli, tmp_path):
    """Another model of the same name: the encoder's id is the same, its vectors are not."""
    wider = tmp_path / "model"
    tokenizer = AutoTokenizer.from_pretrained(built / "model")
    tokenizer.save_pretrained(wider)
    shape = {**TINY, "hidden_size": 48}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(wider)
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["model"]["name"] = str(wider)
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    code, text = run_cli(*command, "--run", run)
    assert_one_clear_line(code, text, "the topic graph was built on rows of 32")
    assert not (run / "adapter").exists()
