"""`topiclora train --run R --add-topic` and `--drop-topic`: a run beside R, whole or not at all, and R as it was."""

import json
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.adapters.helpers import TOKENS, logits, rewrite
from tests.conftest import write_tiny_recipe
from topiclora_cli.cli.app import main
from topiclora_cli.cli.console import console
from topiclora_cli.errors import Interrupted
from topiclora_cli.recipe import load_recipe
from topiclora_cli.runs.run import RunDir
from topiclora_cli.topics.store import TopicGraph

ROWS = [
    {"prompt": f"Question : which {word} is near ? Answer :", "completion": word}
    for word in ("red", "blue", "north", "south", "cat", "dog", "sun", "moon") * 4
]
FILE = "adapter/adapter_model.safetensors"


def call(*arguments):
    with pytest.raises(SystemExit) as stop, console.capture() as printed:
        main([str(each) for each in arguments])
    assert not stop.value.code, printed.get()
    return printed.get()


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def place(tiny_model_dir, tmp_path_factory):
    """A folder with a trained run, the new topic's examples, and the run with that topic."""
    folder = tmp_path_factory.mktemp("growing")
    recipe = write_tiny_recipe(folder, tiny_model_dir)
    call("train", "--recipe", recipe, "--out", folder / "run")
    (folder / "new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    before = files(folder / "run")
    printed = call("train", "--run", folder / "run", "--add-topic", "Near things", "--data", folder / "new.jsonl")
    assert {name: content for name, content in files(folder / "run").items() if name.name != ".lock"} == {
        name: content for name, content in before.items() if name.name != ".lock"
    }
    (folder / "printed.txt").write_text(printed)
    return folder


def test_the_run_with_the_topic_lies_beside_the_old_one_and_says_what_was_added(place):
    printed, new = (place / "printed.txt").read_text(), place / "run+near-things"
    assert "Added: Near things" in printed
    assert "routers that leave it off" in printed
    facts = RunDir(new).stage("add-topic").result
    assert (facts.topic, facts.to, facts.expert, facts.examples) == ("Near things", "run", 4, len(ROWS))
    assert facts.rehearsed > 0
    assert facts.chosen_old <= 0.05
    graph = TopicGraph.load(new / "adapter" / "topic_graph")
    assert graph.topics[-1] == "Near things"
    assert graph.config["grown"][0]["expert"] == 4
    assert not (new / "checkpoints").exists()
    assert not list(place.glob(".run*"))
    recipe = load_recipe(str(new / "recipe.yaml"))
    assert recipe.adapter.num_experts == 5
    assert [source.source for source in recipe.data.sources] == ["quickstart", str(place / "new.jsonl")]


def test_old_experts_and_keys_are_those_of_the_old_run_to_the_bit(place):
    old, new = load_file(place / "run" / FILE), load_file(place / "run+near-things" / FILE)
    assert old.keys() == new.keys()
    for name, tensor in old.items():
        kept = new[name][tuple(slice(size) for size in tensor.shape)]
        assert torch.equal(kept, tensor), name
        assert len(new[name]) == len(tensor) + 1
    trained = [name for name in new if "topiclora_B" in name and new[name][-1].any()]
    assert trained


def test_the_new_run_is_evaluated_routed_and_merged_like_any_other(place, tmp_path):
    run = shutil.copytree(place / "run+near-things", tmp_path / "run")
    call("eval", "--run", run, "--set", "eval.limit=2")
    call("route", "which cat is near ?", "--run", run)
    call("merge", "--run", run, "--set", "merge.calibration=4")
    call("report", run)
    assert (run / "merged" / "mean" / "lora" / "adapter_model.safetensors").is_file()


def test_a_second_topic_comes_to_the_first(place, tmp_path):
    out = tmp_path / "twice"
    first = place / "run+near-things"
    call("train", "--run", first, "--add-topic", "other", "--data", place / "new.jsonl", "--out", out)
    graph = TopicGraph.load(out / "graph")
    assert graph.topics[-2:] == ("Near things", "other")
    assert graph.num_experts == 6
    assert len(load_recipe(str(out / "recipe.yaml")).data.sources) == 3


def test_dropping_the_topic_gives_back_the_adapter_that_there_was(place, tiny_model_dir, tmp_path):
    out = tmp_path / "back"
    printed = call("train", "--run", place / "run+near-things", "--drop-topic", "Near things", "--out", out)
    assert "Expert 4 goes with 'Near things'" in printed
    facts = RunDir(out).stage("drop-topic").result
    assert (facts.topic, facts.expert) == ("Near things", 4)
    before, after = (
        logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model_dir), folder).eval(), TOKENS)
        for folder in (place / "run" / "adapter", out / "adapter")
    )
    torch.testing.assert_close(after, before, atol=1e-6, rtol=1e-5)
    old, new = (load_recipe(str(folder / "recipe.yaml")).data for folder in (place / "run", out))
    assert [source.source for source in new.all_sources] == [source.source for source in old.all_sources]
    call("eval", "--run", out, "--set", "eval.limit=2")


def test_dropping_a_topic_whose_expert_others_share_leaves_the_adapter_alone(place, tmp_path):
    out = tmp_path / "less"
    graph = TopicGraph.load(place / "run" / "graph")
    owner = graph.assignment.argmax(1).tolist()
    shared = next(name for name, expert in zip(graph.topics, owner, strict=True) if owner.count(expert) > 1)
    printed = call("train", "--run", place / "run", "--drop-topic", shared, "--out", out)
    assert f"The expert of {shared!r} stays" in printed
    old, new = load_file(place / "run" / FILE), load_file(out / FILE)
    assert all(torch.equal(new[name], tensor) for name, tensor in old.items())
    assert shared not in TopicGraph.load(out / "graph").topics


def test_old_examples_that_are_gone_are_stood_for_by_the_topics(place, tmp_path):
    run = shutil.copytree(place / "run+near-things", tmp_path / "run")
    text = (run / "recipe.yaml").read_text().replace(str(place / "new.jsonl"), str(tmp_path / "gone.jsonl"))
    (run / "recipe.yaml").write_text(text)
    printed = call("train", "--run", run, "--add-topic", "x", "--data", place / "new.jsonl", "--out", tmp_path / "out")
    assert "Warning: the run's own examples cannot be read" in printed
    assert RunDir(tmp_path / "out").stage("add-topic").result.rehearsed == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--add-topic", "Near Things"], "--add-topic needs examples of the topic."),
        (["--add-topic", "arithmetics", "--drop-topic", "arithmetic"], "are two steps"),
        (["--data", "x.jsonl"], "--data belongs to --add-topic."),
        (["--drop-topic", "arithmetics"], "The run has no topic 'arithmetics'. Did you mean 'arithmetic'"),
        (["--drop-topic", "arithmetic", "--data", "x"], "--drop-topic trains nothing, and --data is about training."),
        (["--add-topic", "Arithmetic ", "--data", "NEW"], "The run has a topic 'arithmetic' already."),
        (["--add-topic", "x", "--data", "gone.jsonl"], "data.source 'gone.jsonl' does not exist."),
        (["--add-topic", "x", "--data", "EMPTY"], "is an empty file"),
        (["--add-topic", "x", "--data", "NEW", "--resume"], "starts from a trained run, without --resume."),
        (["--add-topic", "x", "--data", "NEW", "--set", "train.nosuch=1"], "unknown key 'train.nosuch'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(arguments, message, place, tmp_path, run_cli):
    (tmp_path / "empty.jsonl").write_text("")
    named = {"NEW": place / "new.jsonl", "EMPTY": tmp_path / "empty.jsonl"}
    given = [named.get(each, each) for each in arguments]
    before = sorted(tmp_path.iterdir())
    code, printed = run_cli("train", "--run", place / "run", *given)
    assert code == 2
    assert message in " ".join(printed.split())
    assert sorted(tmp_path.iterdir()) == before
    assert sorted(each.name for each in place.iterdir()) == sorted(
        ["run", "run+near-things", "new.jsonl", "tiny.yaml", "printed.txt"]
    )


def test_a_topic_that_no_router_can_tell_is_warned_of(place, tmp_path):
    row = {"prompt": ROWS[0]["prompt"], "completion": "red"}
    (tmp_path / "same.jsonl").write_text((json.dumps(row) + "\n") * 20)
    asked = ("--add-topic", "x", "--data", tmp_path / "same.jsonl", "--out", tmp_path / "out")
    sets = ("--set", "train.max_steps=1")
    printed = call("train", "--run", place / "run", *asked, *sets)
    facts = RunDir(tmp_path / "out").stage("add-topic").result
    assert (facts.silent, facts.chosen_new, facts.chosen_old) == (facts.routers, 0, 0)
    assert "Warning: no router tells the prompts of 'x' from old ones" in " ".join(printed.split())


def test_a_signal_in_training_leaves_nothing_behind(place, tmp_path, run_cli, monkeypatch):
    def stopped(*_, **__):
        raise Interrupted(15, 3)

    monkeypatch.setattr("topiclora_cli.stages.add_topic.train_adapter", stopped)
    arguments = ("--add-topic", "x", "--data", place / "new.jsonl", "--out", "out")
    code, printed = run_cli("train", "--run", place / "run", *arguments)
    assert (code, "Interrupted." in printed) == (143, True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("named", [".", "adapter/..", "../run"])
def test_the_new_run_lies_beside_the_old_one_however_that_is_named(named, place, tmp_path, monkeypatch):
    monkeypatch.chdir(shutil.copytree(place / "run", tmp_path / "run"))
    call("train", "--run", named, "--drop-topic", TopicGraph.load(place / "run" / "graph").topics[0])
    assert len(list(tmp_path.glob("run-without-*"))) == 1
    assert not list((tmp_path / "run").glob("*without*"))


def test_a_place_that_is_taken_is_refused(place, run_cli):
    arguments = ("--add-topic", "x", "--data", place / "new.jsonl", "--out", place / "run+near-things")
    code, printed = run_cli("train", "--run", place / "run", *arguments)
    assert (code, "exists and is not empty" in printed) == (2, True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"router": "linear"}, "The linear router has no keys from the topic graph"),
        ({"top_k": 1}, "With top_k: 1 a gate is a share of all experts"),
    ],
)
def test_mixtures_whose_gates_a_newcomer_would_change_are_refused(changes, message, place, tmp_path, run_cli):
    run = shutil.copytree(place / "run", tmp_path / "run")
    rewrite(run / "adapter", **changes)
    code, printed = run_cli("train", "--run", run, "--add-topic", "x", "--data", "x.jsonl")
    assert code == 2
    assert message in " ".join(printed.split())


def test_a_run_without_topics_is_refused(tiny_recipe, run_cli):
    text = tiny_recipe.read_text().replace("  num_experts: 4\n", "").replace("  top_k: 2\n", "")
    tiny_recipe.write_text(text)
    sets = ("--set", "adapter.method=lora", "--set", "train.max_steps=1")
    assert run_cli("train", "--recipe", tiny_recipe, "--out", "run", *sets)[0] == 0
    code, printed = run_cli("train", "--run", "run", "--add-topic", "x", "--data", "x.jsonl")
    assert code == 2
    assert "was trained by lora, which has no experts that topics choose" in " ".join(printed.split())


def test_a_run_that_is_not_trained_is_refused(place, tmp_path, run_cli):
    run = shutil.copytree(place / "run", tmp_path / "run")
    manifest = json.loads((run / "run.json").read_text())
    manifest["stages"]["train"]["state"] = "interrupted"
    (run / "run.json").write_text(json.dumps(manifest))
    code, printed = run_cli("train", "--run", "run", "--drop-topic", "arithmetic")
    assert (code, "run is not trained." in printed) == (2, True)
