"""The load-balancing loss of a sparse base model's own routers: its size, its gradient, its share of a step."""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from tests.conftest import write_tiny_recipe
from topiclora_cli.data import encode_rows, load_rows
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.models.base import BaseModel
from topiclora_cli.recipe import load_recipe
from topiclora_cli.training.collate import Collator
from topiclora_cli.training.columns import Examples
from topiclora_cli.training.fit import train_adapter
from topiclora_cli.training.watched import Watched

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
}
SPARSE = {"olmoe": {"num_experts": 8}, "mixtral": {"num_local_experts": 8}}
DEEPSEEK = {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "num_key_value_heads": 4}
PROGRESS = SimpleNamespace(
    say=lambda text: None,
    table=lambda title, columns, rows: None,
    track=lambda *_: nullcontext(lambda steps, note: None),
)
PERFT = [
    "adapter.method=perft-r",
    "adapter.lora_dropout=0",
    "adapter.target_modules=experts",
    "train.learning_rate=1e-4",
]
every_family = pytest.mark.parametrize("family", SPARSE)


def build(family, vocabulary=64, **changes):
    settings = {**SIZES, **SPARSE.get(family, {}), **changes}
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, vocab_size=vocabulary, pad_token_id=2, eos_token_id=1, **settings)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("gate.weight"):  # even routers have nothing to balance
                parameter.mul_(100)
    return model.requires_grad_(False)


@pytest.fixture
def train(tiny_model_dir, tmp_path):
    """Train three steps of a LoRA on a tiny model of a family; returns the rows of metrics.jsonl."""

    def run(family, *settings, **changes):
        overrides = ["adapter.method=lora", "adapter.target_modules=[o_proj]", "train.max_steps=3", *settings]
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        recipe = load_recipe(str(write_tiny_recipe(folder, tiny_model_dir)), overrides)
        tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
        base = BaseModel(build(family, len(tokenizer), **changes), tokenizer, str(tiny_model_dir))
        encoded = encode_rows(load_rows(recipe.data, seed=0), tokenizer, max_length=200)
        held_out = 8 if recipe.train.eval_steps else 0
        train_adapter(
            base,
            Examples(encoded[held_out:]),
            recipe,
            folder=folder,
            resume=False,
            progress=PROGRESS,
            held_out=Examples(encoded[:held_out]) if held_out else None,
        )
        return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]

    return run


@every_family
def test_it_is_a_term_of_its_own_and_the_model_adds_nothing_to_its_loss(family, train):
    without, rows = train(family), train(family, "loss.base_balance.weight=0.5")
    assert "loss_base_balance" not in without[0]
    assert rows[0]["loss_lm"] == pytest.approx(without[0]["loss_lm"], abs=1e-5)
    for row in rows:
        assert row["loss"] == pytest.approx(row["loss_lm"] + 0.5 * row["loss_base_balance"], abs=1e-4)
    assert rows[0]["loss_base_balance"] > 2.01
    assert rows[-1]["grad_norm"] != pytest.approx(without[-1]["grad_norm"], rel=1e-3)


@every_family
@pytest.mark.parametrize("method", [[], PERFT], ids=["lora", "perft"])
def test_accumulation_does_not_weigh_it_more(family, method, train):
    settings = [*method, "loss.base_balance.weight=0.5"]
    rows = train(family, *settings, "train.batch_size=8")
    parts = train(family, *settings, "train.batch_size=4", "train.gradient_accumulation=2")
    for one, two in zip(rows, parts, strict=True):
        total = two["loss_lm"] + 0.5 * two["loss_base_balance"] + 0.01 * two.get("loss_balance", 0)
        assert two["loss"] == pytest.approx(total, abs=1e-4)
        assert two["loss_lm"] == pytest.approx(one["loss_lm"], rel=1e-3)
        assert two["loss_base_balance"] == pytest.approx(one["loss_base_balance"], rel=1e-5)
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)


@every_family
def test_it_is_transformers_own(family, train, monkeypatch):
    own = []
    original = Watched.step

    def watched(self, batch, record, outputs, *others):
        own.append(float(outputs["aux_loss"]))
        return original(self, batch, record, outputs, *others)

    monkeypatch.setattr(Watched, "step", watched)
    rows = train(family, "loss.base_balance.weight=0.5")
    assert [row["loss_base_balance"] for row in rows] == pytest.approx(own, rel=1e-5)


@every_family
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_base_that_asks_for_router_logits_trains_on_the_same_loss(family, accumulation, train):
    settings = [f"train.batch_size={8 // accumulation}", f"train.gradient_accumulation={accumulation}"]
    settings += ["train.eval_steps=3"]
    plain, asks = (train(family, *settings, output_router_logits=asks) for asks in (False, True))
    for one, other in zip(plain, asks, strict=True):
        names = [name for name in one if name.startswith(("loss", "eval_loss", "grad_norm"))]
        assert {n: other[n] for n in names} == pytest.approx({n: one[n] for n in names}, rel=1e-6)


def test_packed_rows_count_their_examples_tokens(train):
    settings = ["loss.base_balance.weight=0.5", "train.batch_size=4", "train.gradient_accumulation=2"]
    apart, packed = (train("olmoe", *settings, f"train.packing={on}") for on in ("false", "true"))
    for one, other in zip(apart, packed, strict=True):
        assert other["loss_base_balance"] == pytest.approx(one["loss_base_balance"], rel=1e-5)


def test_it_trains_beside_the_losses_of_a_mixture_and_under_checkpointing(train):
    settings = ["adapter.method=molora", "loss.base_balance.weight=0.5", "loss.balance.weight=0.1"]
    rows, again = (train("olmoe", *settings, f"train.gradient_checkpointing={on}") for on in ("false", "true"))
    assert {"loss_base_balance", "loss_balance", "routing_entropy"} <= set(rows[0])
    for one, other in zip(rows, again, strict=True):
        assert other["loss_base_balance"] == pytest.approx(one["loss_base_balance"], rel=1e-5)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)


@every_family
def test_a_later_layer_s_router_moves_an_earlier_layer_s_adapter(family):
    base = build(family)
    # A router of zeros passes no gradient on, so that all there is comes through the second layer's.
    next(parameter for name, parameter in base.named_parameters() if name.endswith("gate.weight")).zero_()
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    model(input_ids=torch.randint(3, 64, (2, 9)), output_router_logits=True).aux_loss.backward()
    assert base.model.layers[0].self_attn.q_proj.lora_B["default"].weight.grad.abs().max() > 0


@every_family
def test_pads_on_the_left_do_not_count(family):
    model = build(family).eval()
    rows = [{"input_ids": list(range(3, 3 + length)), "prompt_length": 2} for length in (12, 5)]

    def balance(rows, pad):
        batch = Collator(pad_token_id=pad)(rows)
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids")}
        return model(**inputs, output_router_logits=True).aux_loss.item()

    assert balance(rows, 2) == pytest.approx(balance(rows, 60), abs=1e-6)
    assert balance(rows, 2) != pytest.approx(balance(rows[:1], 2), abs=1e-4)


@pytest.mark.parametrize(("family", "changes"), [("llama", {}), ("deepseek_v3", DEEPSEEK)])
def test_a_model_without_a_router_loss_is_refused(family, changes, train):
    with pytest.raises(TopicLoraError, match=r"loss\.base_balance\.weight is above 0, but the base model reports no"):
        train(family, "loss.base_balance.weight=0.01", **changes)
