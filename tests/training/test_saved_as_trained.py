"""What trained is what is saved: checkpoints, the final adapter, the best one and a resumed run, for every method."""

import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import shaken, write_tiny_recipe
from tests.training.test_terms import PROGRESS
from topiclora_cli.adapters.stock import moves_base
from topiclora_cli.data import encode_rows, load_rows
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.models.base import BaseModel
from topiclora_cli.recipe import load_recipe
from topiclora_cli.recipe.methods import METHODS
from topiclora_cli.recipe.starts import LORA_STARTS
from topiclora_cli.runs.run import RunDir
from topiclora_cli.stages.inputs import load_tuned
from topiclora_cli.training import fit, trainer
from topiclora_cli.training.columns import Examples
from topiclora_cli.training.saving import TENSORS, read_adapter, save_adapter

pytestmark = pytest.mark.slow  # every preset trains, is resumed and opened again

TOKENS = torch.tensor([[5, 9, 12, 7, 30, 8]])
PERFT = {name for name, method in METHODS.items() if method.layer == "perft"}
ON_SPARSE_BASES = {"lora-router", "lora-experts", *PERFT}
TARGETS = {"mixlora": "all-linear", "lora-router": "router", **dict.fromkeys({"lora-experts", *PERFT}, "experts")}


@torch.no_grad()
def logits(model):
    trains = model.training
    values = model.eval()(input_ids=TOKENS, use_cache=False).logits
    model.train(trains)
    return values


@pytest.fixture(scope="module")
def two_loras(tiny_model_dir, tmp_path_factory):
    folders = []
    for seed in range(2):
        base = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
        config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
        folders.append(str(tmp_path_factory.mktemp("lora")))
        shaken(get_peft_model(base, config), seed).save_pretrained(folders[-1])
    return folders


@pytest.fixture
def train(tiny_model_dir, tiny_moe_dir, two_loras, tmp_path, monkeypatch):
    """Trains four steps with a checkpoint at each second; returns the run's folder, and the logits of the model in
    memory at each save by the folder's name."""

    def run(method, *settings, resume=False):
        base_folder = tiny_moe_dir if method in ON_SPARSE_BASES else tiny_model_dir
        overrides = [f"adapter.method={method}", f"model.name={base_folder}", "train.max_steps=4", "loss.kl.weight=0"]
        overrides += ["train.learning_rate=0.05", "train.batch_size=2", "data.per_family=1", *settings]
        if method in TARGETS:
            overrides.append(f"adapter.target_modules={TARGETS[method]}")
        if method == "xlora":
            overrides.append(f"adapter.init_from={two_loras}")
        recipe = load_recipe(str(write_tiny_recipe(tmp_path, base_folder)), overrides)
        seen = {}

        def noting(write):
            def wrapped(model, path, state=None, **of_the_card):
                seen[path.name] = logits(model)
                write(model, path, state, **of_the_card)

            return wrapped

        monkeypatch.setattr(fit, "save_adapter", noting(save_adapter))
        monkeypatch.setattr(trainer, "write_adapter", noting(trainer.write_adapter))
        model = AutoModelForCausalLM.from_pretrained(base_folder)
        base = BaseModel(model, AutoTokenizer.from_pretrained(base_folder), str(base_folder))
        rows = encode_rows(load_rows(recipe.data, seed=0), base.tokenizer, max_length=200)
        fit.train_adapter(
            base, Examples(rows[4:]), recipe, folder=tmp_path, resume=resume, progress=PROGRESS,
            held_out=Examples(rows[:4]) if recipe.train.load_best else None,
        )  # fmt: skip
        return tmp_path, seen, recipe

    return run


def loaded(folder, recipe):
    base = AutoModelForCausalLM.from_pretrained(recipe.model.name)
    base.config.use_cache = False
    return PeftModel.from_pretrained(base, folder)


@pytest.mark.parametrize("method", METHODS)
def test_what_trained_is_what_is_saved_and_what_a_resumed_run_goes_on_with(method, train):
    folder, seen, recipe = train(method)
    assert set(seen) == {"checkpoint-2", "checkpoint-4", "adapter"}
    assert not torch.equal(seen["checkpoint-2"], seen["adapter"])
    for name, expected in seen.items():
        path = folder / name if name == "adapter" else folder / "checkpoints" / name
        assert torch.equal(logits(loaded(path, recipe)), expected), name
    unbroken = load_file(folder / "adapter" / TENSORS)
    shutil.rmtree(folder / "checkpoints" / "checkpoint-4")
    _, again, _ = train(method, resume=True)
    assert set(again) == {"checkpoint-4", "adapter"}
    resumed = load_file(folder / "adapter" / TENSORS)
    assert resumed.keys() == unbroken.keys()
    assert all(torch.equal(resumed[key], tensor) for key, tensor in unbroken.items())
    assert torch.equal(again["adapter"], seen["adapter"])


STARTS = {
    **{f"lora-{start}": ("lora", f"adapter.init_lora_weights={start}") for start in (*LORA_STARTS, "false")},
    "dora-pissa": ("dora", "adapter.init_lora_weights=pissa"),
    "rslora-olora": ("rslora", "adapter.init_lora_weights=olora"),
    "lora+-eva": ("lora+", "adapter.init_lora_weights=eva"),
    **{f"topiclora-{start}": ("topiclora", f"adapter.init={start}") for start in ("orthogonal", "svd")},
}


@pytest.mark.parametrize(("method", "setting"), STARTS.values(), ids=STARTS)
def test_from_whatever_start_what_is_saved_is_on_the_untouched_base_what_trained(method, setting, train):
    folder, seen, recipe = train(method, setting)
    for name, expected in seen.items():
        path = folder / name if name == "adapter" else folder / "checkpoints" / name
        opened = loaded(path, recipe)
        if moves_base(recipe.adapter.model_dump()):  # the difference of two products, in place of one
            assert opened.peft_config["default"].r == 2 * recipe.adapter.r
            torch.testing.assert_close(logits(opened), expected, atol=1e-5, rtol=1e-4)
        else:
            assert torch.equal(logits(opened), expected), name
    unbroken = load_file(folder / "adapter" / TENSORS)
    shutil.rmtree(folder / "checkpoints" / "checkpoint-4")
    _, again, _ = train(method, setting, resume=True)
    assert set(again) == {"checkpoint-4", "adapter"}
    assert all(torch.equal(load_file(folder / "adapter" / TENSORS)[key], tensor) for key, tensor in unbroken.items())
    assert torch.equal(again["adapter"], seen["adapter"])


@pytest.mark.parametrize(
    ("method", "more"),
    [
        *((name, []) for name in ("topiclora", "hmora", "perft-r", "lora-experts", "dora", "adalora", "xlora")),
        ("lora", ["adapter.init_lora_weights=pissa"]),
        ("topiclora", ["adapter.init=svd"]),
    ],
)
def test_the_best_checkpoint_is_what_a_run_ends_with(method, more, train, monkeypatch):
    losses = iter([1.0, 2.0])
    monkeypatch.setattr(trainer, "validation_losses", lambda *_: {"eval_loss": next(losses)})
    settings = ["train.eval_steps=2", "train.load_best=true", "train.metric_for_best=eval_loss", *more]
    folder, seen, recipe = train(method, *settings)
    assert torch.equal(seen["adapter"], seen["checkpoint-2"])
    assert not torch.equal(seen["adapter"], seen["checkpoint-4"])
    opened = logits(loaded(folder / "adapter", recipe))
    if "pissa" in "".join(more):  # written as the difference of two products
        torch.testing.assert_close(opened, seen["checkpoint-2"], atol=1e-5, rtol=1e-4)
    else:
        assert torch.equal(opened, seen["checkpoint-2"])


def test_an_xlora_is_opened_for_later_stages(train):
    folder, seen, recipe = train("xlora")
    run = RunDir.create(folder / "run", recipe_yaml="", name="x", seed=0)
    shutil.copytree(folder / "adapter", run.path / "adapter")
    _, model = load_tuned(recipe, run)
    assert torch.equal(logits(model), seen["adapter"])


def test_a_checkpoint_without_what_trains_is_refused(train, tmp_path):
    folder, _, recipe = train("xlora")
    model = loaded(folder / "adapter", recipe)
    trains = {name for name, parameter in model.named_parameters() if "classifier" in name or "lora_" in name}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trains)
    model.save_pretrained(tmp_path / "peft")
    with pytest.raises(TopicLoraError, match=r"lacks base_model\.internal_xlora_classifier.* of what this adapter"):
        read_adapter(model, tmp_path / "peft")
