"""Fixed gates: the export equals the mixture exactly, and the gap says how far it is from the routed model."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from topiclora_cli.adapters import TopicLoraConfig
from topiclora_cli.adapters.topiclora.layer import TopicLoraLayer
from topiclora_cli.adapters.topiclora.routing import Routing
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.merging.collapse import collapse_to_lora
from topiclora_cli.merging.gap import measure_gap

TOKENS = torch.tensor([[5, 9, 12, 7, 30], [4, 4, 21, 17, 6]])
NAMES = ["q_proj", "down_proj"]


def routed_model(base, **settings):
    torch.manual_seed(0)
    model = get_peft_model(base, TopicLoraConfig(r=2, num_experts=4, target_modules=NAMES, **settings))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.3)
    return model.eval()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"shared_a": True, "router": "linear"},
        {"use_rslora": True},
        {"ranks_per_layer": [1, 3]},
        {"router_scope": "layer"},
    ],
)
def test_export_equals_the_mixture_when_its_gates_are_those(settings, tiny_model, tiny_model_dir, monkeypatch):
    model = routed_model(tiny_model, **settings)
    gates = torch.tensor([0.4, 0.3, 0.2, 0.1])
    layers = {m.name: m for m in model.modules() if hasattr(m, "topiclora_A")}

    def fixed(layer, adapter, x, projected=None):
        return Routing(gates.expand(*x.shape[:-1], 4), 4, layer.topiclora_config[adapter].scaling)

    monkeypatch.setattr(TopicLoraLayer, "route", fixed)
    other = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    lora = collapse_to_lora(model, other, dict.fromkeys(layers, gates))
    with torch.no_grad():
        expected = model(TOKENS).logits
        torch.testing.assert_close(lora(TOKENS).logits, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(lora.merge_and_unload()(TOKENS).logits, expected, atol=1e-5, rtol=1e-4)


def test_mixing_after_the_non_linearity_has_no_lora(tiny_model, tiny_model_dir):
    names = ["gate_proj", "up_proj", "down_proj"]
    config = TopicLoraConfig(r=2, num_experts=4, target_modules=names, mixing="ffn", router_scope="block")
    model = get_peft_model(tiny_model, config)
    gates = {m.name: torch.full((4,), 0.25) for m in model.modules() if isinstance(m, TopicLoraLayer)}
    with pytest.raises(TopicLoraError, match="mixing: ffn"):
        collapse_to_lora(model, AutoModelForCausalLM.from_pretrained(tiny_model_dir), gates)


def test_missing_gates_and_other_adapters_are_refused(tiny_model, tiny_model_dir):
    model = routed_model(tiny_model)
    other = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    with pytest.raises(TopicLoraError, match="No gates for"):
        collapse_to_lora(model, other, {})
    plain = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model_dir), LoraConfig(target_modules=NAMES))
    with pytest.raises(TopicLoraError, match="no mixture"):
        collapse_to_lora(plain, other, {})


def test_gap_by_hand():
    p = torch.tensor([[0.5, 0.5], [0.9, 0.1]]).log()
    q = torch.tensor([[0.5, 0.5], [0.4, 0.6]]).log()
    assert measure_gap([p], [p]).kl == pytest.approx(0, abs=1e-7)
    gap = measure_gap([p[:1], p[1:]], [q[:1], q[1:]])
    expected = 0.9 * torch.tensor(0.9 / 0.4).log() + 0.1 * torch.tensor(0.1 / 0.6).log()
    assert gap.kl == pytest.approx(expected.item() / 2, rel=1e-5)
    assert (gap.agreement, gap.tokens) == (0.5, 2)
