"""The mixture by ordinary autograd, which accelerators take: the same function as the fused one, in fewer calls."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

from tests.adapters.helpers import TOKENS, assert_same_gradients, gradients, without_and_with_checkpointing
from tests.adapters.test_kernels import E, R, assert_near, layer, loop, outcome
from tests.adapters.test_saved_bytes import SHAPE, TARGETS, kept
from topiclora_cli.adapters import TopicLoraConfig
from topiclora_cli.adapters.light import LIGHT_UP_TO, prefers_light
from topiclora_cli.adapters.topiclora import linear


@pytest.fixture
def light(monkeypatch):
    """Has a CPU take the way of accelerators; the list counts who asked for it."""
    asked = []
    kernel = linear.light_mixture
    monkeypatch.setattr(linear, "prefers_light", lambda x, base: torch.is_grad_enabled())
    monkeypatch.setattr(linear, "light_mixture", lambda *given: asked.append(given) or kernel(*given))
    return asked


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["f64", "f32"])
@pytest.mark.parametrize("shape", [(7, 12), (2, 3, 12), (0, 12)], ids=["2d", "3d", "none"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("shared_a", [False, True], ids=["own-a", "shared-a"])
@pytest.mark.parametrize("top_k", [None, 2])
def test_equals_a_loop_over_experts(top_k, shared_a, bias, shape, dtype, tolerance, light):
    mixture = layer("auto", top_k=top_k, shared_a=shared_a, bias=bias)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    naive = outcome(lambda x: loop(mixture, x), mixture, x)
    mixture = mixture.to(dtype)
    found = outcome(mixture, mixture, x.to(dtype))
    assert len(light) == 1
    if len(x):
        assert_near(found, naive, tolerance)
    else:
        assert found["out"].shape == naive["out"].shape


@pytest.mark.parametrize(
    "settings",
    [
        {"router": "topic", "router_scope": "layer", "top_k": 2},
        {"router": "linear", "router_scope": "layer", "shared_experts": 2},
        {"router": "cosine", "shared_a": True},
        {"router": "hierarchical"},
        {"router": "linear", "top_k": 1, "granularity": "prompt"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
@pytest.mark.filterwarnings("ignore:Routing by prompt")
def test_a_model_learns_as_by_the_fused_kernel(settings, family_model, shaken, light, monkeypatch):
    config = TopicLoraConfig(
        r=R, num_experts=E, target_modules="all-linear", task_type="CAUSAL_LM", router_width=6, **settings
    )
    model = shaken(get_peft_model(family_model("llama"), config)).train()
    found = []
    for asked in (False, True):
        monkeypatch.setattr(linear, "prefers_light", lambda x, base, asked=asked: asked and torch.is_grad_enabled())
        model.zero_grad()
        loss = model(input_ids=TOKENS, labels=TOKENS).loss
        loss.backward()
        found.append((loss.detach(), gradients(model)))
    (loss, expected), (same, actual) = found
    assert len(light) == 14
    torch.testing.assert_close(same, loss)
    assert_same_gradients(actual, expected)


def test_checkpointing_makes_it_again(family_model, shaken, light):
    config = TopicLoraConfig(
        r=R, num_experts=E, target_modules="all-linear", task_type="CAUSAL_LM", router="linear", router_scope="layer"
    )
    model = shaken(get_peft_model(family_model("llama"), config)).train()
    (plain, _), (again, _) = without_and_with_checkpointing(model)
    assert_same_gradients(again, plain)


@pytest.mark.parametrize("shared_a", [False, True], ids=["own-a", "shared-a"])
def test_under_autocast_it_is_near_the_plain_one(shared_a, light):
    x = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(3))
    results = []
    for name in ("plain", "auto"):
        mixture = layer(name, r=8, size=16, top_k=2, shared_a=shared_a, dtype=torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            assert mixture(x).dtype == torch.bfloat16
            results.append(outcome(mixture, mixture, x))
    assert len(light) == 2
    assert_near(results[1], results[0], 0.03)


def test_layers_that_share_a_decision_spread_it_once(family_model, light):
    config = TopicLoraConfig(
        r=R, num_experts=E, target_modules="all-linear", task_type="CAUSAL_LM", router="linear", router_scope="layer"
    )
    model = get_peft_model(family_model("llama"), config).train()
    model(input_ids=TOKENS)
    assert len({id(factors) for _, factors, *_ in light}) == 2  # one for each decoder layer


def test_keeps_little_more_than_plain_lora(light):
    plain = kept(LoraConfig(r=64, target_modules=TARGETS, task_type="CAUSAL_LM"))
    settings = {"r": 8, "num_experts": 8, "target_modules": TARGETS, "task_type": "CAUSAL_LM"}
    assert kept(TopicLoraConfig(router="linear", top_k=2, router_scope="layer", **settings)) / plain <= 1.07
    assert len(light) == len(TARGETS) * LlamaForCausalLM(SHAPE).config.num_hidden_layers


def test_who_takes_it():
    def asks(device, rows, width=4096):
        with torch.device("meta"):
            return prefers_light(torch.empty(rows, width, device=device), torch.nn.Linear(width, width))

    assert not asks("cpu", 8, 64)
    assert asks("meta", 1024)
    assert not asks("meta", LIGHT_UP_TO // 4096**2 + 1)
    with torch.no_grad():
        assert not asks("meta", 8)
