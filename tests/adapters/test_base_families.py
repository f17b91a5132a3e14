"""Base models of many families: where their linear layers stand, in what order they run, what must not be adapted."""

import pytest
import torch
from peft import PeftModel

from tests.adapters.helpers import TOKENS, logits
from topiclora_cli.adapters import record_routing
from topiclora_cli.adapters.observe import observe_gates
from topiclora_cli.adapters.topiclora import TopicLoraLayer
from topiclora_cli.errors import TopicLoraError

FAMILIES = [
    *("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "olmo2", "gpt2", "opt"),
    *("olmoe", "qwen2_moe", "deepseek_v3", "llama4_text"),
]
NO_FEED_FORWARD = ["opt", "olmoe"]  # its linear layers have no block of their own; they are experts, fused
FUSED = ["gpt2", "phi3"]  # one linear layer for query, key and value: no two read the same tensor
ROUTERS = {"gate", "router", "shared_expert_gate"}
every_family = pytest.mark.parametrize("family", FAMILIES)


def adapted_names(model):
    return [module.name for module in model.modules() if isinstance(module, TopicLoraLayer)]


def assert_all_trainable_learn(model):
    model.train()(input_ids=TOKENS, labels=TOKENS).loss.backward()
    silent = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not silent


@every_family
def test_all_linear_adapts_layers_but_no_router_and_no_head(family, family_model, adapted):
    names = adapted_names(adapted(family_model(family)))
    assert {name.rpartition(".")[2] for name in names}.isdisjoint(ROUTERS | {"lm_head"})
    for number in (0, 1):
        attention = [name for name in names if f".{number}." in name and "attn" in name]
        assert len(attention) >= 2, names  # at least one that reads the layer's input, and the output projection


@every_family
def test_fresh_equals_base_and_a_trained_one_reloads_bit_equal(family, family_model, adapted, shaken, tmp_path):
    before = logits(family_model(family))
    model = adapted(family_model(family), top_k=2)
    assert torch.equal(logits(model), before)
    expected = logits(shaken(model))
    assert (expected - before).abs().max() > 1e-2
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(family_model(family), tmp_path)
    assert torch.equal(logits(loaded), expected)
    assert adapted_names(loaded) == adapted_names(model)


@every_family
@pytest.mark.parametrize("scope", ["group", "block", "layer"])
def test_layers_that_share_a_router_take_its_decision(family, scope, family_model, adapted, shaken):
    model = shaken(adapted(family_model(family), router="linear", router_scope=scope))
    with record_routing(model) as record:
        logits(model)
    assert set(record.gates) == set(adapted_names(model))
    if scope != "group" or family not in FUSED:
        assert len(record.logits) < len(record.gates)
    decisions = [value.softmax(-1).flatten(0, -2) for value in record.logits.values()]
    for name, gates in record.gates.items():
        assert any(torch.equal(gates.flatten(0, -2), decision) for decision in decisions), name
    if scope == "layer":
        assert len(record.logits) == 2
    assert_all_trainable_learn(model)


@every_family
def test_every_layer_can_be_observed(family, family_model, adapted, shaken):
    model = shaken(adapted(family_model(family), top_k=2))
    gates = observe_gates(model, [{"input_ids": TOKENS, "token_mask": torch.ones_like(TOKENS)}])
    assert set(gates) == set(adapted_names(model))
    for name, mean in gates.items():
        assert mean.shape == (2, 4), name
        torch.testing.assert_close(mean.sum(-1), torch.ones(2))


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in NO_FEED_FORWARD])
@pytest.mark.parametrize("scope", ["block", "layer"])
def test_mixing_after_the_non_linearity(family, scope, family_model, adapted, shaken):
    settings = {"router": "linear", "top_k": 2, "router_scope": scope, "mixing": "ffn"}
    model = adapted(family_model(family), **settings)
    torch.testing.assert_close(logits(model), logits(family_model(family)), atol=1e-6, rtol=0)
    expected = logits(shaken(model))
    linear = shaken(adapted(family_model(family), **{**settings, "mixing": "linear"}))
    assert not torch.allclose(expected, logits(linear), atol=1e-4)
    assert_all_trainable_learn(model)


@pytest.mark.parametrize("family", NO_FEED_FORWARD)
def test_mixing_after_the_non_linearity_is_refused_without_feed_forward_blocks(family, family_model, adapted):
    with pytest.raises(TopicLoraError, match="no feed-forward block"):
        adapted(family_model(family), router_scope="block", mixing="ffn")


@pytest.mark.parametrize("targets", [["up_proj", "down_proj"], ["gate_proj", "up_proj"], ["down_proj"]])
def test_mixing_after_the_non_linearity_wants_whole_blocks(targets, family_model, adapted):
    with pytest.raises(TopicLoraError, match="is left out"):
        adapted(family_model("llama"), router_scope="block", mixing="ffn", target_modules=targets)


@every_family
@pytest.mark.parametrize("settings", [{"top_k": 2}, {"router_scope": "layer", "granularity": "prompt"}],
                         ids=["token", "layer-prompt"])  # fmt: skip
def test_padding_side_does_not_matter(family, settings, family_model, adapted, shaken):
    model = shaken(adapted(family_model(family), **settings))
    pad, ones = torch.zeros(2, 3, dtype=torch.long), torch.ones_like(TOKENS)
    positions = {} if family == "opt" else {"position_ids": torch.cat([pad, torch.arange(6).expand(2, -1)], 1)}
    left = logits(model, torch.cat([pad, TOKENS], 1), attention_mask=torch.cat([pad, ones], 1), **positions)
    right = logits(model, torch.cat([TOKENS, pad], 1), attention_mask=torch.cat([ones, pad], 1))
    torch.testing.assert_close(left[:, 3:], right[:, :6], atol=1e-5, rtol=0)
    torch.testing.assert_close(right[:, :6], logits(model), atol=1e-5, rtol=0)
