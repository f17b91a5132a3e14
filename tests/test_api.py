"""The package as Python users meet it: what one import does, and the stages as functions."""

import importlib.resources
import json
import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

import topiclora_cli as topiclora
from topiclora_cli.runs.run import RunDir
from topiclora_cli.topics.store import TopicGraph


def in_a_new_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_loads_nothing_heavy():
    assert (
        in_a_new_process(
            "import sys, topiclora_cli\n"
            "print({'torch', 'peft', 'transformers', 'pydantic', 'yaml', 'rich'} & set(sys.modules))"
        ).strip()
        == "set()"
    )


# Asking whether peft is there, as transformers does, does not import it.
ASKED = "import topiclora_cli, importlib.util; assert importlib.util.find_spec('peft') and 'peft' not in sys.modules"


@pytest.mark.parametrize("before", [f"{ASKED}; import peft", "import peft; import topiclora_cli"])
def test_one_import_has_peft_know_the_methods_in_either_order(before):
    known = in_a_new_process(
        f"import sys; {before}\n"
        "from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as known\n"
        "print({'TOPICLORA', 'PERFT'} <= {str(name.value) for name in known})"
    )
    assert known.strip() == "True"


def test_types_and_names_are_public():
    assert importlib.resources.files("topiclora_cli").joinpath("py.typed").is_file()
    assert set(topiclora.__all__) <= set(dir(topiclora))
    for name in topiclora.__all__:
        assert getattr(topiclora, name) is not None
        assert name == "__version__" or getattr(topiclora, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        topiclora.nothing  # noqa: B018


@pytest.fixture(scope="module")
def trained(tiny_model_dir, tmp_path_factory):
    from tests.conftest import write_tiny_recipe

    folder = tmp_path_factory.mktemp("api")
    recipe = topiclora.load_recipe(write_tiny_recipe(folder, tiny_model_dir), {"train.max_steps": 2})
    return topiclora.train(recipe, folder / "run")


def test_a_recipe_is_trained_in_one_call_without_a_terminal(trained, capsys):
    assert trained.result.steps == 2
    assert trained.run.is_done("graph")
    assert (trained.adapter / "adapter_config.json").is_file()
    assert capsys.readouterr().out == ""


def test_the_stages_go_on_from_a_run_or_its_folder(trained):
    scores = topiclora.evaluate(trained.run, limit=2, base=False, name="few")
    assert scores.name == "few"
    export = topiclora.merge(trained.run.path, gates="mean", formats=["lora"])
    assert list(export.folders) == ["lora"]
    routed = topiclora.route(trained.run.path, "What is 12 times 7?")
    assert routed.topics is not None
    assert routed.gates is not None
    prior = topiclora.load_prior(trained.run)(["What is 12 times 7?"])
    assert prior.prior[0].tolist() == pytest.approx(routed.topics.prior)


def test_a_topic_comes_to_a_run_and_goes_again(trained, tmp_path):
    data = tmp_path / "rivers.jsonl"
    rows = [{"question": f"Where does the {name} end ?", "end": "sea"} for name in ("Rhine", "Elbe", "Oder", "Main")]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    reads = {"data.prompt": "question", "data.completion": " {{ end }}", "train.max_steps": 1}
    added = topiclora.add_topic(
        trained.run, "rivers ", data, description="where they end", out=tmp_path / "more", overrides=reads
    )
    assert (added.run.path, added.facts.topic, added.facts.examples) == (tmp_path / "more", "rivers", 4)
    assert added.training.steps == 1
    graph = TopicGraph.load(added.run.path / "graph")
    assert (graph.topics[-1], graph.descriptions[-1]) == ("rivers", "where they end")
    assert len(topiclora.load_prior(added.run)(["Which river?"]).prior[0]) == graph.num_experts
    dropped = topiclora.drop_topic(added.run.path, "rivers")
    assert dropped.run.path == tmp_path / "more-without-rivers"
    assert dropped.facts.expert == graph.num_experts - 1
    assert "rivers" not in TopicGraph.load(dropped.run.path / "graph").topics
    assert topiclora.load_recipe(trained.run.path / "recipe.yaml").adapter.num_experts == graph.num_experts - 1


def test_a_run_is_compared_with_its_base(trained):
    topiclora.evaluate(trained.run, limit=2, name="both")
    (compared,) = topiclora.compare(trained.run, baseline="base")
    assert (compared.baseline, {row.count for row in compared.rows}) == ("base", {2, 4})


def test_a_run_loads_as_by_peft_after_one_import(trained, tiny_model_dir):
    ours, tokenizer = topiclora.load_model(trained.run)
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model_dir), trained.adapter).eval()
    ids = tokenizer("What is 12 times 7?", return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(ours(ids).logits, theirs(ids).logits)


def test_a_run_trained_in_bfloat16_loads_to_run_without_autocast(tiny_recipe, tmp_path):
    changes = {"train.precision": "bfloat16", "train.max_steps": 1}
    done = topiclora.train(tiny_recipe, tmp_path / "run", overrides=changes)
    model, tokenizer = topiclora.load_model(done.run)
    ids = tokenizer("What is 12 times 7?", return_tensors="pt").input_ids
    assert model.generate(input_ids=ids, max_new_tokens=2, min_new_tokens=2).shape[1] == ids.shape[1] + 2


def test_a_run_trains_in_a_thread_of_its_own(tiny_recipe, tmp_path):
    changes = {"train.max_steps": 1, "adapter.method": "lora"}
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(topiclora.train, tiny_recipe, tmp_path / "run", overrides=changes).result()
    assert done.result.steps == 1


def test_lines_go_to_the_logger(tiny_recipe, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="topiclora_cli"):
        topiclora.build_graph(tiny_recipe, tmp_path / "run", overrides={"graph.taxonomy": "induced"})
    assert "Looking for topics" in caplog.text


def test_a_run_and_a_folder_for_a_new_one_contradict(tiny_recipe, tmp_path):
    run = topiclora.start_run(tiny_recipe, tmp_path / "run", overrides={"seed": 3})
    assert isinstance(run, RunDir)
    assert run.manifest.seed == 3
    with pytest.raises(topiclora.TopicLoraError, match="asks for a new one"):
        topiclora.train(run, tmp_path / "other")


def test_a_wrong_setting_names_its_key(trained):
    with pytest.raises(ValueError, match=r"unknown key 'eval\.limits'"):
        topiclora.evaluate(trained.run, limits=2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda done: topiclora.evaluate(done), r"no run, but of type Trained. Its \.run is one"),
        (lambda done: topiclora.merge(None), "no run, but of type NoneType. Give its path"),
        (lambda done: topiclora.train({"name": "x"}), "no recipe, but of type dict. Give its path"),
        (lambda done: topiclora.compare(), "There is no run to compare"),
        (lambda done: topiclora.compare(3), "no run, but of type int"),
        (lambda done: topiclora.load_recipe("quickstart", ["train.max_steps=3"]), "overrides is no mapping of dotted"),
        (lambda done: topiclora.load_recipe("quickstart", {3: 1}), "overrides is no mapping of dotted keys"),
        (lambda done: topiclora.add_topic(done, "x", "x.jsonl"), r"no run, but of type Trained. Its \.run is one"),
        (lambda done: topiclora.add_topic(done.run, None, "x.jsonl"), "named by its text, not by NoneType"),
        (lambda done: topiclora.add_topic(done.run, " ", "x.jsonl"), "is no name of a topic"),
        (lambda done: topiclora.add_topic(done.run, "x", None), "no data source, but of type NoneType"),
        (lambda done: topiclora.add_topic(done.run, "x", "x", overrides=["seed=3"]), "overrides is no mapping"),
        (lambda done: topiclora.add_topic(done.run, "x", "gone.jsonl"), "'gone.jsonl' does not exist"),
        (lambda done: topiclora.drop_topic(done.run, "x"), "The run has no topic 'x'"),
    ],
)
def test_what_is_no_run_recipe_or_override_is_said_in_one_line(trained, call, message):
    with pytest.raises(topiclora.TopicLoraError, match=message):
        call(trained)
