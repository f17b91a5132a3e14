"""A recipe's loss section turned into terms, on hand-made records and through the trainer."""

import json
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from peft import get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2MoeConfig, Qwen2MoeForCausalLM

from tests.conftest import write_tiny_recipe
from tests.training.helpers import over_tokens
from topiclora_cli.adapters import TopicLoraConfig
from topiclora_cli.adapters.record import RoutingRecord, record_routing
from topiclora_cli.data import encode_rows, load_rows
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.models.base import BaseModel
from topiclora_cli.recipe import load_recipe
from topiclora_cli.recipe.loss import LossSection
from topiclora_cli.training.columns import Examples
from topiclora_cli.training.fit import train_adapter
from topiclora_cli.training.losses import expert_activity, switch_balance
from topiclora_cli.training.step import Step, aligned_layers, spread_tokens
from topiclora_cli.training.terms import loss_terms
from topiclora_cli.training.token_terms import measure, whole_means
from topiclora_cli.training.watched import refuse_hidden_gradients
from topiclora_cli.training.whole_step import WholeStep

# The base model's own balance needs a sparse one: see test_base_balance.
TERMS = [name for name in LossSection().terms if name != "base_balance"]
TOGETHER = [f"loss.{name}.weight=0.1" for name in TERMS if name != "centre"] + ["loss.prior_forcing.start=0.5"]
# What a term needs of the adapter, where the topic router with trained keys will not do.
ADAPTERS = {"centre": {"router": "cosine", "shared_a": True}}
NO_KL = {"kl": {"weight": 0.0}}
PROGRESS = SimpleNamespace(
    say=lambda text: None,
    table=lambda title, columns, rows: None,
    track=lambda *_: nullcontext(lambda steps, note: None),
)


def step(section, *, prior=None, experts=(4, 4)):
    """Two routers in two decoder layers over two samples, the second of which starts with a pad."""
    generator = torch.Generator().manual_seed(0)
    record = RoutingRecord()
    for layer, count in enumerate(experts):
        logits = torch.randn(2, 3, count, generator=generator)
        record.logits[f"model.layers.{layer}.q_proj"] = logits
        record.gates[f"model.layers.{layer}.q_proj"] = logits.softmax(-1)
    mask = torch.tensor([[1, 1, 1], [0, 1, 1]])
    confidence = None if prior is None else torch.ones(2)
    return Step(record, nn.Module(), LossSection(**section), 0.5, mask, mask, prior, confidence)


def terms_of(step):
    """The terms of a micro-batch that is all of its step."""
    mask = step.token_mask
    whole = WholeStep(mask.sum(), torch.tensor(float(len(mask))), 1, 1, {})
    measured = measure(step, whole)
    return loss_terms(step, replace(whole, means=whole_means(measured)), measured)


def test_without_weights_there_are_no_terms():
    assert terms_of(step(NO_KL, prior=torch.full((2, 4), 0.25))) == {}


def test_the_prior_s_term_needs_a_prior():
    assert set(terms_of(step({"balance": {"weight": 0.1}}))) == {"balance"}
    assert set(terms_of(step({"balance": {"weight": 0.1}}, prior=torch.full((2, 4), 0.25)))) == {"kl", "balance"}


def test_the_kl_s_weight_follows_its_schedule():
    section = {"kl": {"weight": 0.5, "floor": 0.1, "warmup": 0.0}}
    assert terms_of(step(section, prior=torch.full((2, 4), 0.25)))["kl"][0] == pytest.approx(0.3)


def test_layers_may_differ_in_their_number_of_experts():
    names = ("balance", "local_balance", "normal", "z", "gjs", "poisson", "sparsity")
    section = {**NO_KL, **{name: {"weight": 0.1} for name in names}}
    mixed = step(section, prior=torch.full((2, 8), 1 / 8), experts=(2, 5))
    terms = terms_of(mixed)
    assert set(terms) == set(names)
    assert all(value.isfinite() for _, value in terms.values())
    record = mixed.record
    each = [
        switch_balance(over_tokens(expert_activity(record.gates[n], record.logits[n].softmax(-1)), mixed.token_mask))
        for n in record.logits
    ]
    torch.testing.assert_close(terms["balance"][1], sum(each) / 2)
    assert mixed.routing_entropy.isfinite().all()
    summed = step({**section, "reduce_routers": "sum"}, prior=torch.full((2, 8), 1 / 8), experts=(2, 5))
    for name, (_, value) in terms_of(summed).items():
        torch.testing.assert_close(value, 2 * terms[name][1])


def test_pooled_routers_are_one_over_all_their_tokens():
    section = {**NO_KL, "balance": {"weight": 0.1}, "reduce_routers": "pool"}
    pooled = step(section)
    logits, gates = (torch.cat(list(values.values())) for values in (pooled.record.logits, pooled.record.gates))
    means = over_tokens(expert_activity(gates, logits.softmax(-1)), pooled.token_mask.repeat(2, 1))
    torch.testing.assert_close(terms_of(pooled)["balance"][1], switch_balance(means))
    with pytest.raises(TopicLoraError, match=r"routers are pooled, but they differ in their number of experts"):
        terms_of(step(section, experts=(2, 5)))


def test_a_prior_over_other_experts_is_explained():
    with pytest.raises(TopicLoraError, match=r"over 8 experts, but the router of model\.layers\.1\.q_proj has 4\."):
        terms_of(step({}, prior=torch.full((2, 8), 1 / 8)))
    with pytest.raises(TopicLoraError, match=r"Set adapter\.num_experts to 8, or rebuild the graph for 4 experts"):
        terms_of(step({}, prior=torch.full((2, 8), 1 / 8)))


def test_samples_belong_to_the_half_their_prior_prefers():
    section = {**NO_KL, "local_balance": {"weight": 1.0, "delta": 0.5}}
    first, second = torch.tensor([0.5, 0.5, 0, 0]), torch.tensor([0, 0, 0.5, 0.5])
    values = {
        order: terms_of(step(section, prior=prior))["local_balance"][1].item()
        for order, prior in {"there": torch.stack([first, second]), "back": torch.stack([second, first])}.items()
    }
    even = {**NO_KL, "local_balance": {"weight": 1.0}}
    plain = terms_of(step(even))["local_balance"][1].item()
    assert len({*values.values(), plain}) == 3
    with pytest.raises(
        TopicLoraError, match=r"loss\.local_balance\.delta is set, but it goes by examples' topic priors"
    ):
        terms_of(step(section))


def test_aligned_layers():
    names = [f"model.layers.{i}.q_proj" for i in range(4)] + ["head"]
    assert aligned_layers(names, "all") == names
    assert aligned_layers(names, "top_half") == names[2:]
    assert aligned_layers(["head"], "top_half") == ["head"]
    assert aligned_layers(names[:1], "top_half") == names[:1]


def test_tokens_are_spread_over_the_real_ones_of_each_example():
    mask = torch.tensor([[0, 0, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]])
    for count, first, second in ((2, [2, 3], [0, 3]), (3, [2, 3, 4], [0, 2, 4]), (5, [2, 3, 4], [0, 1, 2, 3, 4])):
        places, real = spread_tokens(mask, count)
        assert [row[taken].tolist() for row, taken in zip(places, real, strict=True)] == [first, second]


@pytest.fixture(scope="module")
def train(tiny_model_dir, tmp_path_factory):
    """Train three steps of two micro-batches under some settings; returns the rows of metrics.jsonl."""

    def run(*settings, prior_experts=4, **config):
        folder = tmp_path_factory.mktemp("terms")
        overrides = ["train.max_steps=3", "train.batch_size=4", "train.gradient_accumulation=2", *settings]
        overrides += [f"adapter.{key}={str(value).lower()}" for key, value in config.items()]
        recipe = load_recipe(str(write_tiny_recipe(folder, tiny_model_dir)), overrides)
        model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
        base = BaseModel(model, AutoTokenizer.from_pretrained(tiny_model_dir), str(tiny_model_dir))
        encoded = encode_rows(load_rows(recipe.data, seed=0), base.tokenizer, max_length=200)
        priors = None
        if prior_experts:
            draw = torch.randn(len(encoded), prior_experts, generator=torch.Generator().manual_seed(0))
            priors = draw.softmax(-1), torch.ones(len(encoded))
        train_adapter(base, Examples(encoded, priors), recipe, folder=folder, resume=False, progress=PROGRESS)
        return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]

    return run


@pytest.fixture(scope="module")
def plain(train):
    """The rows of a run on language modelling alone."""
    return train("loss.kl.weight=0", train_keys=True)


@pytest.mark.parametrize("term", TERMS)
def test_each_weight_changes_the_loss_and_is_logged(term, train, plain):
    name = f"loss_{term}"
    constant = ["loss.kl.weight=0", "loss.kl.warmup=0", "loss.kl.floor=0.5"]
    adapter = ADAPTERS.get(term, {"train_keys": True})
    if term in ADAPTERS:
        plain = train("loss.kl.weight=0", **adapter)
    rows = train(*constant, f"loss.{term}.weight=0.5", "loss.sparsity.target=1", **adapter)
    possible = {f"loss_{each}" for each in TERMS}
    assert possible & set(plain[0]) == set()
    assert possible & set(rows[0]) == {name}
    for row in rows:
        assert row["loss"] == pytest.approx(row["loss_lm"] + 0.5 * row[name], abs=1e-4)
    assert rows[-1][name] > 0
    assert rows[-1]["grad_norm"] != pytest.approx(plain[-1]["grad_norm"], rel=1e-4)


def test_prior_forcing_changes_the_gates_alone_and_is_logged(train, plain):
    rows = train("loss.kl.weight=0", "loss.prior_forcing.start=0.6", "loss.prior_forcing.until=1", train_keys=True)
    assert [row["prior_forcing"] for row in rows] == pytest.approx([0.6, 0.4, 0.2])
    assert rows[0]["loss"] == pytest.approx(rows[0]["loss_lm"])
    assert rows[0]["routing_entropy"] == plain[0]["routing_entropy"]
    assert rows[0]["effective_experts"] != plain[0]["effective_experts"]


def test_without_a_prior_the_other_terms_remain(train):
    rows = train("loss.balance.weight=0.1", "loss.local_balance.weight=0.1", prior_experts=0, router="linear")
    assert {"loss_balance", "loss_local_balance", "routing_entropy"} <= set(rows[0])
    assert "loss_kl" not in rows[0]


def test_all_terms_work_under_gradient_checkpointing(train):
    rows, again = (train(*TOGETHER, f"train.gradient_checkpointing={on}", train_keys=True) for on in ("false", "true"))
    for one, other in zip(rows, again, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)


def test_all_terms_work_in_bfloat16(train):
    rows, rounded = (
        train(*TOGETHER, f"train.precision={precision}", train_keys=True) for precision in ("float32", "bfloat16")
    )
    for one, other in zip(rows, rounded, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-2)


LORA = "means nothing to lora, which has no routed experts"


@pytest.mark.parametrize(
    ("term", "adapter", "reason"),
    [
        ("kl", {"method": "lora"}, LORA),
        ("balance", {"method": "lora"}, LORA),
        (
            "anchor",
            {"method": "topiclora"},
            "is above 0, but the adapter has no topic router",
        ),
        ("contrast", {"method": "lora"}, LORA),
        ("orthogonal", {"method": "lora"}, LORA),
        ("centre", {"method": "lora"}, LORA),
        ("centre", {"method": "molora"}, "means nothing to the linear router"),
    ],
)
def test_a_term_that_nothing_in_the_model_has_is_refused(term, adapter, reason, train):
    with pytest.raises(TopicLoraError, match=rf"loss\.{term}\.weight {reason}"):
        train(f"loss.{term}.weight=0.1", prior_experts=0, **adapter)


def test_training_stops_at_a_prior_over_other_experts(train):
    with pytest.raises(TopicLoraError, match="The prior is over 3 experts"):
        train(prior_experts=3)


def test_layers_of_different_sizes_train_where_the_prior_fits_the_aligned_ones(train):
    together = [term for term in TOGETHER if "anchor" not in term]  # which topic keys alone have
    rows = train(*together, router="linear", experts_by_depth=[2, 4])
    assert {"loss_kl", "loss_balance", "loss_contrast"} <= set(rows[0])
    with pytest.raises(TopicLoraError, match=r"over 4 experts, but the router of model\.layers\.0\."):
        train("loss.kl.layers=all", router="linear", experts_by_depth=[2, 4])


def test_layers_that_read_their_tokens_in_one_row_still_have_losses(tiny_model_dir):
    model = Qwen2MoeForCausalLM(
        Qwen2MoeConfig(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=16,
            moe_intermediate_size=8,
            shared_expert_intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            num_experts=4,
            num_experts_per_tok=2,
        )
    )
    routed = get_peft_model(model, TopicLoraConfig(r=2, num_experts=4, target_modules="all-linear", router="linear"))
    mask = torch.ones(2, 3)
    with record_routing(model) as record:
        routed(input_ids=torch.randint(0, 32, (2, 3)))
    assert any(logits.shape[:-1] != mask.shape for logits in record.logits.values())
    record.arrange(mask.shape)
    section = LossSection(z={"weight": 1.0}, balance={"weight": 1.0}, kl={"weight": 0.0})
    losses = terms_of(Step(record, routed, section, 0.0, mask, mask))
    assert set(losses) == {"z", "balance"}


@pytest.mark.parametrize("reentrant", [False, True])
def test_reentrant_checkpointing_is_refused(reentrant, tiny_model):
    config = TopicLoraConfig(r=2, num_experts=4, target_modules=["q_proj"])
    model = get_peft_model(tiny_model, config).train()
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    with record_routing(model) as record:
        model(input_ids=torch.tensor([[5, 9, 12]]))
    expectation = pytest.raises(TopicLoraError, match="use_reentrant") if reentrant else nullcontext()
    with expectation:
        refuse_hidden_gradients(model, record)
