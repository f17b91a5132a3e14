"""What routers do, in numbers: against chance, against products written out, and at the extremes."""

import math

import pytest
import torch
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from tests.conftest import SMALL, shaken
from topiclora_cli.adapters import PerftConfig, TopicLoraConfig, record_routing
from topiclora_cli.evaluation.routers.layers import measure_layers
from topiclora_cli.evaluation.routers.measures import agreement, divergence, loads, membership, shared_information
from topiclora_cli.evaluation.routers.observed import observe
from topiclora_cli.evaluation.routers.redundancy import cosines, redundancy

TOKENS = torch.tensor([[5, 9, 12, 7, 30, 8], [4, 4, 21, 17, 0, 0]])
MASK = (TOKENS > 0).long()
BATCH = {"input_ids": TOKENS, "attention_mask": MASK, "prompt_mask": MASK, "token_mask": MASK}


def model(family="llama", config=None, **settings):
    torch.manual_seed(0)
    sizes = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16} if family == "olmoe" else {}
    base = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SMALL, **sizes), dtype=torch.float32)
    config = config or TopicLoraConfig(
        **{"r": 2, "num_experts": 4, "top_k": 2, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **settings}
    )
    return shaken(get_peft_model(base.eval(), config))


def tags(count):
    return [("maths",), ("poems",), ("maths", "code"), ("code",)] * (count // 4)


def test_experts_that_follow_topics_share_information_beyond_chance():
    topics = [("a",), ("b",)] * 20
    gates = torch.eye(2)[[0, 1] * 20] * 0.8 + 0.1
    found = shared_information(membership(topics)[1], gates)
    assert found.p == 1 / 1000
    assert found.by_chance < 0.02 < found.corrected < math.log(2)


def test_experts_that_follow_nothing_share_what_chance_gives():
    gates = torch.rand(40, 8, generator=torch.Generator().manual_seed(0)).softmax(-1)
    found = shared_information(membership([("a",), ("b",)] * 20)[1], gates)
    assert found.p > 0.05
    assert abs(found.corrected) < found.found
    assert shared_information(membership([("a",), ("b",)] * 20)[1], gates) == found
    even = shared_information(membership([("a",), ("b",)] * 2)[1], torch.full((4, 2), 0.5))
    assert (even.p, even.found) == (1.0, pytest.approx(0, abs=1e-6))


def test_loads_and_divergences_at_the_extremes():
    one, even = torch.eye(4)[[0] * 6], torch.full((6, 4), 0.25)
    assert loads([one]) == pytest.approx((1, math.sqrt(3), 1))
    assert loads([even]) == pytest.approx((4, 0, 0.25))
    assert loads([one, even])[:2] == pytest.approx((2.5, math.sqrt(3) / 2))
    assert divergence(torch.eye(2)[0], torch.eye(2)[1]) == pytest.approx(math.log(2))
    assert divergence(even, even).tolist() == [0] * 6
    assert agreement(one, one) == pytest.approx((1, 0), abs=1e-6)
    assert agreement(one, torch.eye(4)[[1] * 6]) == pytest.approx((0, math.log(2)))


def test_means_over_tokens_are_those_of_every_token():
    mixture = model()
    observed = observe(mixture, [BATCH])
    with record_routing(mixture) as record, torch.no_grad():
        mixture(input_ids=TOKENS, attention_mask=MASK)
    for name, gates in record.gates.items():
        real = gates[MASK.bool()]
        torch.testing.assert_close(observed.gates[name][0], gates[0].mean(0))
        torch.testing.assert_close(observed.last[name], torch.stack([gates[0, 5], gates[1, 3]]))
        assert observed.per_token[name] == pytest.approx(float((1 / real.square().sum(-1)).mean()), rel=1e-5)
        entropy = -(real * real.clamp_min(1e-12).log()).sum(-1).mean() / math.log(4)
        assert observed.token_entropy[name] == pytest.approx(float(entropy), rel=1e-5)


SETTINGS = [
    {},
    {"shared_a": True},
    {"shared_experts": 1},
    {"router": "linear", "mixing": "ffn", "router_scope": "block"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_redundancy_is_that_of_the_products_written_out(settings):
    mixture = model(**settings)
    found = redundancy(mixture, [BATCH])
    with record_routing(mixture, inputs=True) as record, torch.no_grad():
        mixture(input_ids=TOKENS, attention_mask=MASK)
    layers = {layer.name: layer for layer in mixture.modules() if getattr(layer, "name", None) in found}
    assert found.keys() == record.gates.keys()
    for name, layer in layers.items():
        lora_a, lora_b = (factor.detach() for factor in layer.routed_factors("default"))
        products = [b.T @ a for a, b in zip(lora_a.expand(4, -1, -1), lora_b, strict=True)]
        flat = torch.nn.functional.normalize(torch.stack(products).flatten(1), dim=-1)
        torch.testing.assert_close(found[name].cosine, flat @ flat.T, atol=1e-5, rtol=1e-4)
        x = record.inputs[name].reshape(-1, lora_a.shape[-1])
        x = x[MASK.bool().flatten()] if len(x) == MASK.numel() else x
        outputs = [(x @ product.T).double() for product in products]
        outputs = [each - each.mean(0) for each in outputs]
        hsic = torch.tensor([[float((a.T @ b).square().sum()) for b in outputs] for a in outputs])
        scale = hsic.diagonal().sqrt()
        torch.testing.assert_close(found[name].cka, hsic / (scale[:, None] * scale), atol=1e-4, rtol=1e-3)
        assert found[name].tokens == len(x)


def test_equal_experts_are_wholly_redundant_and_untrained_ones_are_none():
    factor = torch.randn(1, 2, 6)
    assert cosines(factor, torch.randn(1, 2, 5).expand(3, -1, -1)).tolist() == [[pytest.approx(1)] * 3] * 3
    assert cosines(torch.randn(3, 2, 6), torch.zeros(3, 2, 5)).abs().max() == 0


def test_parallel_perft_is_measured_after_its_non_linearity():
    config = PerftConfig(variant="routed", r=2, num_adapters=4, top_k=2, adapter_type="parallel", task_type="CAUSAL_LM")
    mixture = model("olmoe", config)
    found = redundancy(mixture, [BATCH])
    layer = next(layer for layer in mixture.modules() if getattr(layer, "name", None) in found)
    with record_routing(mixture, inputs=True) as record, torch.no_grad():
        mixture(input_ids=TOKENS, attention_mask=MASK)
    x = record.inputs[layer.name].reshape(-1, 32)[MASK.bool().flatten()]
    down, up = (factor.detach() for factor in layer.factors("default"))
    outputs = [torch.nn.functional.silu(x @ a.T) @ b for a, b in zip(down, up, strict=True)]
    outputs = [each - each.mean(0) for each in outputs]
    expected = (outputs[0].T @ outputs[1]).square().sum()
    expected = expected / ((outputs[0].T @ outputs[0]).norm() * (outputs[1].T @ outputs[1]).norm())
    assert float(found[layer.name].cka[0, 1]) == pytest.approx(float(expected), rel=1e-3)


def test_every_layer_is_measured_and_all_as_one():
    mixture = model()
    observed = observe(mixture, [BATCH] * 4)
    layers = measure_layers(observed, redundancy(mixture, [BATCH]), tags(8), torch.full((8, 4), 0.25))
    assert [each.layer for each in layers.layers] == [0, 1]
    assert (layers.together.layer, layers.together.modules, layers.experts) == (None, 14, 4)
    for each in (*layers.layers, layers.together):
        assert 1 <= each.experts_per_token <= 2
        assert 1 <= each.effective_experts <= 4
        assert 0 < each.p <= 1
        assert sum(each.load) == pytest.approx(1)
        assert each.cosine[0] <= each.cosine[1] <= 1
        assert 0 <= each.cka[0] <= each.cka[1] <= 1 + 1e-6
        assert each.from_prior > 0
    assert set(layers.use[0]) == {"maths", "poems", "code"}
    assert sum(layers.by_topic["maths"]) == pytest.approx(1)
    assert len(layers.cosine) == len(layers.cka) == 4
    assert measure_layers(observed, {}, tags(8), None).together.agrees is None
