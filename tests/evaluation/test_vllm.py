"""What vLLM is handed, against a stub with its interface as lm-eval uses it; no vLLM runs in these tests."""

import json

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer

from tests.conftest import shaken
from tests.evaluation import vllm_stub
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.evaluation.harness import EvalRequest
from topiclora_cli.evaluation.loading import load_tasks
from topiclora_cli.evaluation.metrics import CHOICE_LOSS
from topiclora_cli.evaluation.running import run_harness, score_tasks
from topiclora_cli.evaluation.vllm import VllmModel, open_vllm

TASKS = ("choice", "cloze", "prose", "free", "over")


@pytest.fixture
def stub(monkeypatch):
    vllm_stub.install(monkeypatch)
    return vllm_stub.LLM


@pytest.fixture
def lora(tiny_model, tmp_path):
    """A stock LoRA of rank 3 in a folder, and the model that it makes of the base."""
    model = shaken(get_peft_model(tiny_model, LoraConfig(r=3, target_modules=["q_proj"], task_type="CAUSAL_LM")))
    model.save_pretrained(tmp_path / "lora")
    return tmp_path / "lora", model


def test_scores_through_vllm_are_those_of_transformers(stub, lora, tiny_model_dir, task_folder, tmp_path):
    folder, model = lora
    request = EvalRequest(TASKS, include_path=str(task_folder), batch_size=4, seeds=(0, 1, 7, 3))
    tasks = load_tasks(request)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    mine = run_harness(model, tokenizer, request, tasks, label="hf", output_path=tmp_path)
    theirs = score_tasks(
        lambda: VllmModel(str(tiny_model_dir), folder), request, tasks, label="vllm", output_path=tmp_path
    )
    assert mine.scores.keys() == theirs.scores.keys()
    assert not theirs.failed
    for name, score in mine.scores.items():
        for key, metric in score.metrics.items():
            assert theirs.scores[name].metrics[key].value == pytest.approx(metric.value, rel=1e-4), (name, key)
    assert CHOICE_LOSS in {metric.name for metric in theirs.scores["choice"].metrics.values()}
    (made,) = stub.made
    assert {key: made[key] for key in ("model", "enable_lora", "max_lora_rank", "seed", "dtype")} == {
        **{"model": str(tiny_model_dir), "enable_lora": True, "max_lora_rank": 8, "seed": 7, "dtype": "float32"}
    }


def test_a_dense_model_is_loaded_by_its_folder(stub, tiny_model_dir, task_folder, tmp_path):
    request = EvalRequest(["few"], include_path=str(task_folder), batch_size="auto", bfloat16=True)
    score_tasks(
        lambda: VllmModel(str(tiny_model_dir)), request, load_tasks(request), label="vllm", output_path=tmp_path
    )
    assert (stub.made[0]["enable_lora"], stub.made[0]["dtype"]) == (False, "bfloat16")


def test_without_vllm_it_is_said_in_a_line(tiny_model_dir):
    with pytest.raises(TopicLoraError, match=r"eval.backend: vllm needs the package vllm, which is not installed"):
        VllmModel(str(tiny_model_dir))


def test_a_mixture_is_refused_by_name(stub, tmp_path, tiny_model_dir):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "TOPICLORA", "r": 2}))
    with pytest.raises(TopicLoraError, match=r"knows no adapter of the kind TOPICLORA.*topiclora merge"):
        VllmModel(str(tiny_model_dir), tmp_path)


def test_the_largest_rank_counts(stub, tmp_path, tiny_model_dir):
    settings = {"peft_type": "LORA", "r": 4, "rank_pattern": {"q_proj": 40}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    assert VllmModel(str(tiny_model_dir), tmp_path).rank == 64


def test_the_command_says_at_once_that_vllm_is_not_installed(tiny_recipe, run_cli):
    settings = ["adapter.method=lora", "loss.kl.weight=0", "train.max_steps=1"]
    changes = [part for setting in settings for part in ("--set", setting)]
    code, text = run_cli("train", "--recipe", tiny_recipe, "--out", "run", *changes)
    assert code == 0, text
    code, text = run_cli("eval", "--run", "run", "--backend", "vllm")
    assert (code, len(text.splitlines()), "needs the package vllm" in text) == (2, 1, True), text


def test_the_command_scores_a_stock_lora_through_vllm(stub, tiny_recipe, run_cli):
    settings = ["adapter.method=lora", "train.max_steps=1"]
    changes = [part for setting in settings for part in ("--set", setting)]
    assert run_cli("train", "--recipe", tiny_recipe, "--out", "run", *changes)[0] == 0
    code, text = run_cli("eval", "--run", "run", "--backend", "vllm", "--limit", "2")
    assert (code, "tuned" in text) == (0, True), text
    assert [made["enable_lora"] for made in stub.made] == [False, True]


def test_what_the_engine_is_made_with_can_be_said(stub, tiny_recipe, run_cli, tmp_path):
    settings = ["adapter.method=lora", "loss.kl.weight=0", "train.max_steps=1"]
    changes = [part for setting in settings for part in ("--set", setting)]
    assert run_cli("train", "--recipe", tiny_recipe, "--out", "run", *changes)[0] == 0
    ask = ("eval", "--run", "run", "--limit", "2", "--backend-args")
    code, text = run_cli(*ask, "max_model_len=64,tensor_parallel_size=2,dtype=float16", "--backend", "vllm")
    assert code == 0, text
    said = {"max_model_len": 64, "tensor_parallel_size": 2, "dtype": "float16"}
    assert all(said.items() <= made.items() for made in stub.made)
    code, text = run_cli(*ask, "pretrained=other", "--backend", "vllm")
    assert (code, "pretrained comes from the recipe" in text) == (2, True), text
    code, text = run_cli(*ask, "max_model_len=64", "--backend", "hf")
    assert (code, "eval.backend is hf" in text) == (2, True), text


def test_an_argument_that_the_engine_does_not_know_is_named(stub, monkeypatch, tiny_model_dir):
    def strict(self, *, model, tokenizer, **settings):
        if "max_len" in settings:
            raise TypeError("EngineArgs.__init__() got an unexpected keyword argument 'max_len'")

    monkeypatch.setattr(stub, "__init__", strict)
    with pytest.raises(TopicLoraError, match=r"backend_args: vLLM's engine takes no 'max_len'"):
        open_vllm(VllmModel(str(tiny_model_dir)), EvalRequest(["few"], backend_args={"max_len": 3}))
