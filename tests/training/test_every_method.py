"""Every method trains through the real command line, says what it adapted, and loads again."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

import topiclora_cli.adapters  # noqa: F401 -- registers the method
from topiclora_cli.recipe.methods import METHODS
from topiclora_cli.runs.results.metrics import read_metrics

TOKENS = torch.tensor([[5, 9, 12, 7, 30, 8]])
LOSSES = {
    "topiclora": {"loss_kl"},
    "adalora": {"loss_adalora"},
    "loramoe": {"loss_local_balance"},
    "adamole": {"loss_balance"},
    "mixlora": {"loss_balance"},
    "hmora": {"loss_gjs"},
    "gmoe": {"loss_poisson", "loss_normal"},
    "samora": {"loss_orthogonal", "loss_centre"},
    "ldmole": {"loss_balance"},
    "perft-r": {"loss_balance"},
    "topic-perft": {"loss_kl", "loss_balance"},
}
# What the tiny recipe's targets would hide, or cannot be on its dense model.
TARGETS = {
    "mixlora": "all-linear",
    "lora-qv": "[q_proj, v_proj]",
    "lora-router": "router",
    "lora-experts": "experts",
}
PERFT = [name for name, method in METHODS.items() if method.layer == "perft"]
TARGETS |= dict.fromkeys(PERFT, "experts")
ON_SPARSE_BASES = {"lora-qv", "lora-router", "lora-experts", *PERFT}


@pytest.fixture(scope="module")
def two_loras(tiny_model_dir, tmp_path_factory):
    """Two trained stock LoRA adapters on the tiny model."""
    folders = []
    for number, rank in enumerate((2, 3)):
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(tiny_model_dir),
            LoraConfig(r=rank, target_modules=["q_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM"),
        )
        folders.append(tmp_path_factory.mktemp(f"lora{number}"))
        model.save_pretrained(folders[-1])
    return folders


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=TOKENS, use_cache=False).logits


@pytest.mark.parametrize("method", METHODS)
def test_method_trains_and_loads_again(method, tiny_recipe, tiny_model_dir, tiny_moe_dir, two_loras, run_cli, tmp_path):
    base = tiny_moe_dir if method in ON_SPARSE_BASES else tiny_model_dir
    changes = [f"adapter.method={method}", f"model.name={base}", "train.max_steps=2", "train.learning_rate=0.01"]
    if method in TARGETS:
        changes.append(f"adapter.target_modules={TARGETS[method]}")
    if method in ("adamole", "ldmole"):
        changes.append("adapter.top_k=null")  # their routers choose how many
    if method == "xlora":
        changes.append(f"adapter.init_from={[str(folder) for folder in two_loras]}")
    arguments = [part for change in changes for part in ("--set", change)]
    code, text = run_cli("train", "--recipe", tiny_recipe, "--out", tmp_path / "run", *arguments)
    assert code == 0, text
    assert f"Adapted by {method}" in text
    assert "Trainable parameters:" in text
    final = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1].values
    auxiliary = {key for key in final if key.startswith("loss_")} - {"loss_lm"}
    assert auxiliary == LOSSES.get(method, set())
    loaded = [
        PeftModel.from_pretrained(_base(base), tmp_path / "run" / "adapter", is_trainable=False) for _ in range(2)
    ]
    assert torch.equal(logits(loaded[0]), logits(loaded[1]))
    assert not torch.equal(logits(loaded[0]), logits(_base(base)))


@pytest.mark.parametrize(("method", "merges"), [("mola", True), ("mixlora", False), ("samora", True)])
def test_methods_with_uneven_layers_evaluate_and_export(method, merges, tiny_recipe, run_cli, tmp_path):
    changes = ["adapter.target_modules=all-linear", f"adapter.method={method}", "train.max_steps=1", "eval.base=false"]
    arguments = [part for change in changes for part in ("--set", change)]
    assert run_cli("train", "--recipe", tiny_recipe, "--out", tmp_path / "run", *arguments)[0] == 0
    code, text = run_cli("eval", "--run", tmp_path / "run")
    assert code == 0, text
    routing = json.loads(next((tmp_path / "run" / "eval").glob("*/summary.json")).read_text())["routing"]
    assert routing["experts_in_use"] > 1
    code, text = run_cli("merge", "--run", tmp_path / "run")
    assert code == (0 if merges else 2), text
    assert merges or "mixing: ffn" in text


def _base(folder):
    base = AutoModelForCausalLM.from_pretrained(folder)
    base.config.use_cache = False
    return base


@pytest.mark.parametrize("frozen", [False, True])
def test_experts_from_existing_loras(frozen, tiny_recipe, two_loras, run_cli, tmp_path):
    names = ",".join(map(str, two_loras))
    flags = ["--set", "adapter.train_experts=false"] if frozen else []
    changes = ["--set", "adapter.method=molora", "--set", "train.max_steps=2", *flags]
    code, text = run_cli("train", "--recipe", tiny_recipe, "--out", tmp_path / "run", "--init-from", names, *changes)
    assert code == 0, text
    routers = 2 * (2 * 32 + 2 * 48)
    experts = 2 * 2 * 3 * ((32 + 32) + (48 + 32))
    assert f"Trainable parameters: {routers if frozen else routers + experts:,} in all" in text


def test_budget_is_solved_and_reported(tiny_recipe, run_cli, tmp_path):
    code, text = run_cli(
        "train",
        "--recipe",
        tiny_recipe,
        "--out",
        tmp_path / "run",
        "--budget",
        "total=9K",
        "--set",
        "train.max_steps=1",
    )
    assert code == 0, text
    # 656 in the routers and 1152 for every rank.
    assert "Budget total=9K: rank 7, -3.1%." in text


def test_a_target_that_matches_nothing_is_an_error(tiny_recipe, run_cli, tmp_path):
    code, text = run_cli(
        "train", "--recipe", tiny_recipe, "--out", tmp_path / "run", "--set", "adapter.target_modules=[q_proj,o_porj]"
    )
    assert code == 2
    assert "'o_porj' matches nothing in the model" in text
