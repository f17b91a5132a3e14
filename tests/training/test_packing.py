"""Packed rows: what goes where, and training on them as on the same examples one a row."""

import random

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, FalconConfig, FalconForCausalLM, GPT2Config, GPT2LMHeadModel

from topiclora_cli.runs.results.metrics import read_metrics
from topiclora_cli.training.collate import Collator
from topiclora_cli.training.packing import keeps_apart, pack

pytestmark = pytest.mark.slow  # whole trainings, packed and apart

ROWS = [
    {"input_ids": [11, 12, 13, 14, 1], "prompt_length": 3},
    {"input_ids": [21, 22, 1], "prompt_length": 2},
    {"input_ids": [31, 1], "prompt_length": 1},
]
TARGETS = "adapter.target_modules=[q_proj, o_proj]"
SGD = ["train.optimizer=sgd", "train.learning_rate=0.1"]  # AdamW would blow the rounding of tiny gradients up
# Each changes how rows come about, or adds a loss that looks at whole examples.
EVERY_TERM = ["local_balance", "contrast", "gjs", "normal", "balance", "z", "poisson", "sparsity"]
SETTINGS = {
    "grouped": [],
    "random": ["train.group_by_length=false"],
    "accumulated": ["train.batch_size=4", "train.gradient_accumulation=2"],
    "prompts": ["data.train_on_prompt=true"],
    "terms": [f"loss.{name}_weight=0.1" for name in EVERY_TERM],
    "checkpointing": ["train.gradient_checkpointing=true"],
}


@pytest.fixture
def train(tiny_model_dir, tiny_moe_dir, tiny_recipe, run_cli, tmp_path):
    """Train the tiny recipe on llama or olmoe, six steps; returns the rows of metrics.jsonl."""

    def run(family, *settings):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        base = {"llama": tiny_model_dir, "olmoe": tiny_moe_dir}[family]
        changes = [f"--set={setting}" for setting in (f"model.name={base}", TARGETS, *settings)]
        code, text = run_cli("train", "--recipe", tiny_recipe, "--out", folder, *changes)
        assert code == 0, text
        return [row.values for row in read_metrics(folder / "metrics.jsonl")]

    return run


def test_every_example_once_and_little_padding():
    generator = random.Random(0)
    lengths = [generator.randint(10, 200) for _ in range(16)]
    rows = pack(lengths)
    assert sorted(index for row in rows for index in row) == list(range(16))
    width = max(sum(lengths[index] for index in row) for row in rows)
    assert len(rows) > 1
    assert len(rows) * width < 1.1 * sum(lengths)


def test_one_example_is_one_row_and_long_ones_stay_apart():
    assert pack([7]) == [[0]]
    assert sorted(pack([8000, 8000, 8000])) == [[0], [1], [2]]


def test_packed_tensors():
    batch = Collator(pad_token_id=2, select_logits=True, packed=True)([*ROWS, ROWS[2]])
    assert batch["input_ids"].tolist() == [[11, 12, 13, 14, 1, 21, 22, 1, 31, 1, 31, 1]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 0, 1, 0, 1]]
    wanted = batch["logits_to_keep"]
    assert batch["shift_labels"].tolist() == [14, 1, 1, 1, 1]
    assert batch["input_ids"][wanted].tolist() == [13, 14, 22, 31, 31]
    assert batch["places"].tolist() == [[0, 1, 2, 3, 4], [-1, -1, 5, 6, 7], [-1, -1, -1, 8, 9], [-1, -1, -1, 10, 11]]
    assert batch["prompt_mask"].tolist() == [[1, 1, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 1, 0], [0, 0, 0, 1, 0]]
    assert "attention_mask" not in batch


@pytest.mark.parametrize("family", ["llama", "olmoe"])
def test_packing_under_bfloat16(family, train):
    settings = ["train.precision=bfloat16"]
    apart, packed = (train(family, *SGD, *settings, f"train.packing={on}") for on in ("false", "true"))
    assert [row["loss"] for row in packed] == pytest.approx([row["loss"] for row in apart], rel=0.02)


@pytest.mark.parametrize("family", ["llama", "olmoe"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
def test_losses_and_gradients_are_those_of_unpacked_examples(family, settings, train):
    apart, packed = (train(family, *SGD, *settings, f"train.packing={on}") for on in ("false", "true"))
    assert len(packed) == 6
    for one, other in zip(apart, packed, strict=True):
        assert one["tokens_per_second"] > 0
        names = [name for name in one if name.startswith(("loss", "grad_norm", "routing", "effective", "largest"))]
        assert {"loss", "loss_kl", "grad_norm_router", "grad_norm_experts"} <= set(names)
        for name in names:
            assert other[name] == pytest.approx(one[name], rel=1e-5, abs=1e-5), (name, one["step"])


def test_rows_are_fewer_and_validation_is_the_same(train, monkeypatch):
    shapes = []
    original = Collator.__call__

    def watched(self, rows):
        batch = original(self, rows)
        shapes.append((len(rows), len(batch["input_ids"])))
        return batch

    monkeypatch.setattr(Collator, "__call__", watched)
    settings = ["data.validation=0.2", "train.eval_steps=3"]
    measured = []
    for on in ("true", "false"):
        rows = train("llama", *settings, f"train.packing={on}")
        measured.append([row[name] for row in rows if "eval_loss" in row for name in ("eval_loss", "eval_kl")])
        fewer = sum(rows for _, rows in shapes) / sum(examples for examples, _ in shapes)
        assert fewer < 0.6 if on == "true" else fewer == 1
        shapes.clear()
    assert len(measured[0]) == 4
    assert measured[0] == pytest.approx(measured[1], rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["adapter.granularity=prompt"], "averages over the prompts of a whole row"),
        (["adapter.method=hmora"], "averages over the prompts of a whole row"),
    ],
)
def test_what_looks_at_whole_rows_is_refused(settings, message, tiny_recipe, run_cli):
    changes = [TARGETS, *settings, "train.packing=true"]
    code, text = run_cli("train", "--recipe", tiny_recipe, "--out", "r", *(f"--set={c}" for c in changes))
    assert (code, message in text) == (2, True), text


def test_models_that_mix_packed_examples_are_told_from_those_that_do_not(tiny_model):
    small = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    with_alibi = FalconForCausalLM(FalconConfig(**small, alibi=True))
    with_positions = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4))
    for model, expected in ((tiny_model, True), (with_positions, True), (with_alibi, False)):
        adapted = get_peft_model(model, LoraConfig(target_modules="all-linear", lora_dropout=0.5))
        assert keeps_apart(adapted) is expected


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("family", ["llama", "olmoe"])
def test_selected_logits_give_the_full_loss_and_gradient(family, packed, tiny_model_dir, tiny_moe_dir):
    model = AutoModelForCausalLM.from_pretrained({"llama": tiny_model_dir, "olmoe": tiny_moe_dir}[family])
    losses, gradients = [], []
    for select in (True, False):
        batch = Collator(pad_token_id=2, select_logits=select, packed=packed)(ROWS)
        inputs = {name: value for name, value in batch.items() if name not in ("prompt_mask", "places")}
        model.zero_grad()
        output = model(**inputs, use_cache=False)
        output.loss.backward()
        assert output.logits.numel() // model.config.vocab_size == (4 if select else batch["input_ids"].numel())
        losses.append(output.loss.item())
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None})
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "olmoe"])
def test_a_plain_step_changes_the_adapter_as_it_does_unpacked(
    family, tiny_model_dir, tiny_moe_dir, tiny_recipe, run_cli
):
    base = {"llama": tiny_model_dir, "olmoe": tiny_moe_dir}[family]
    weights = []
    for on in ("false", "true"):
        settings = [f"model.name={base}", TARGETS, f"train.packing={on}", "train.optimizer=sgd", "train.max_steps=1"]
        settings += ["train.learning_rate=10", "train.warmup_ratio=0", "loss.kl.warmup=0"]
        code, text = run_cli("train", "--recipe", tiny_recipe, "--out", on, *(f"--set={s}" for s in settings))
        assert code == 0, text
        weights.append(load_file(tiny_recipe.parent / on / "adapter" / "adapter_model.safetensors"))
    assert max(float(weight.abs().max()) for name, weight in weights[0].items() if "_B" in name) > 0.01
    torch.testing.assert_close(*weights, atol=1e-5, rtol=1e-5)
