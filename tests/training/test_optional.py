"""What a recipe may ask for beside the plain run: other optimizers, compilation, packed weights, trackers."""

import importlib.util
import json
import shutil

import pytest
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from tests.training.test_resume import rows

BNB = pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")


@pytest.fixture
def train(tiny_recipe, run_cli, tmp_path):
    """Train the tiny recipe, six steps, under some settings; returns the rows of metrics.jsonl."""

    def run(*settings, name="run"):
        changes = [part for setting in settings for part in ("--set", setting)]
        code, text = run_cli("train", "--recipe", tiny_recipe, "--out", name, *changes)
        assert code == 0, text
        return rows(tmp_path / name)

    return run


@pytest.mark.parametrize(
    ("setting", "module", "message"),
    [
        (
            "train.optimizer=paged_adamw_8bit",
            "bitsandbytes",
            "train.optimizer: paged_adamw_8bit needs the package bitsandbytes",
        ),
        ("model.quantization=4bit", "bitsandbytes", "model.quantization: 4bit needs the package bitsandbytes"),
        ("train.liger=true", "liger_kernel", "train.liger needs the package liger-kernel"),
        ("train.report_to=[wandb]", "wandb", "train.report_to: wandb needs the package wandb"),
        ("train.report_to=[tensorboard]", "tensorboard", "train.report_to: tensorboard needs the package tensorboard"),
        ("train.report_to=[trackio]", "trackio", "train.report_to: trackio needs the package trackio"),
        ("train.report_to=[mlflow]", "mlflow", "train.report_to: mlflow needs the package mlflow"),
    ],
)
def test_a_missing_library_is_named(setting, module, message, tiny_recipe, run_cli, monkeypatch):
    find_spec = importlib.util.find_spec
    hidden = {module, "tensorboardX"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in hidden else find_spec(name, *a))
    code, text = run_cli("train", "--recipe", tiny_recipe, "--out", "r", "--set", setting)
    assert (code, message in text) == (2, True), text


@pytest.mark.parametrize("setting", ["train.report_to=[tensorbord]", "train.optimizer=adam"])
def test_an_unknown_name_is_refused(setting, tiny_recipe, run_cli):
    code, text = run_cli("train", "--recipe", tiny_recipe, "--out", "r", "--set", setting)
    assert (code, "Input should be 'tensorboard'" in text or "Input should be 'adamw_torch'" in text) == (2, True), text


@pytest.mark.parametrize("name", ["adamw_torch", "adafactor", "sgd"])
def test_other_optimizers_train(name, train):
    routed = "train.router_learning_rate=0.05"
    plain, other = train(routed), train(routed, f"train.optimizer={name}", name="other")
    assert other[0]["loss"] == pytest.approx(plain[0]["loss"], abs=1e-6)
    if name == "adamw_torch":
        assert other[-1]["loss"] == pytest.approx(plain[-1]["loss"], abs=1e-5)
    else:
        assert other[-1]["loss"] != pytest.approx(plain[-1]["loss"], abs=1e-7)


@pytest.mark.slow
def test_compiled_training_has_the_same_losses(train):
    plain, compiled = (
        train("train.max_steps=3"),
        train("train.max_steps=3", "train.torch_compile=true", name="compiled"),
    )
    for one, other in zip(plain, compiled, strict=True):
        for name in ("loss", "loss_kl", "grad_norm_router"):
            assert other[name] == pytest.approx(one[name], rel=1e-4, abs=1e-5), name


@BNB
def test_optimizers_in_8_bits_train(train, tmp_path):
    plain, other = train(name="plain"), train("train.optimizer=adamw_8bit")
    assert other[-1]["loss"] == pytest.approx(plain[-1]["loss"], abs=0.01)
    weights = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert all(tensor.any() for name, tensor in weights.items() if "topiclora_B" in name)


@pytest.fixture
def wider_model_dir(tiny_model_dir, tmp_path):
    """The tiny model with rows of a whole block of 4-bit weights."""
    folder = shutil.copytree(tiny_model_dir, tmp_path / "wider")
    config = AutoConfig.from_pretrained(folder)
    config.hidden_size, config.intermediate_size, config.head_dim = 64, 128, 16
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@BNB
@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_a_quantised_base_trains_and_exports_the_full_one(bits, train, run_cli, tmp_path, wider_model_dir):
    wider = f"model.name={wider_model_dir}"
    plain, other = train(wider, name="plain"), train(wider, f"model.quantization={bits}")
    assert other[0]["loss"] != plain[0]["loss"]
    assert other[-1]["loss"] == pytest.approx(plain[-1]["loss"], abs=0.01)
    weights = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert all(tensor.any() for name, tensor in weights.items() if "topiclora_B" in name)
    code, text = run_cli("merge", "--run", "run")
    assert code == 0, text
    assert json.loads((tmp_path / "run" / "merged" / "mean" / "gap.json").read_text())["kl"] < 0.5
    config = json.loads((tmp_path / "run/merged/mean/dense/config.json").read_text())
    assert "quantization_config" not in config
