"""Frozen weights stored in bfloat16, as training under autocast keeps them, with adapters of every kind upon them."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from topiclora_cli.adapters import PerftConfig, TopicLoraConfig
from topiclora_cli.models.precision import store_weights_in_bfloat16

FAMILIES = ["olmoe", "mixtral", "qwen2_moe", "qwen3_moe", "granitemoe", "gpt_oss"]
FUSED = ["experts.gate_up_proj", "experts.down_proj"]
CONFIGS = {
    "mixture": lambda: TopicLoraConfig(r=8, num_experts=4, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    "routed": lambda: PerftConfig(r=8, task_type="CAUSAL_LM"),
    "embedded, sorted": lambda: PerftConfig(variant="embedded", r=8, kernel="sparse", task_type="CAUSAL_LM"),
    "lora on experts": lambda: LoraConfig(r=8, target_modules=[], target_parameters=FUSED, task_type="CAUSAL_LM"),
}
TOKENS = torch.tensor([[5, 9, 12, 7, 30, 8], [4, 4, 21, 17, 6, 11]])


def test_linear_layers_and_experts_are_stored_so_and_nothing_else(family_model):
    model = family_model("olmoe")
    store_weights_in_bfloat16(model)
    rounded = {name for name, weight in model.named_parameters() if weight.dtype == torch.bfloat16}
    layer = {name.removeprefix("model.layers.0.") for name in rounded if "layers.0." in name}
    attention = {f"self_attn.{name}_proj.weight" for name in "qkvo"}
    assert layer == {*attention, "mlp.experts.gate_up_proj", "mlp.experts.down_proj"}
    assert {name for name in rounded if "layers" not in name} == {"lm_head.weight"}


@pytest.mark.parametrize("experts", ["eager", "batched_mm", "grouped_mm"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("family", FAMILIES)
def test_training_under_autocast_stays_near_float32(family, config, experts, family_model):
    with torch.no_grad():
        expected = family_model(family)(input_ids=TOKENS).logits
    model = family_model(family)
    store_weights_in_bfloat16(model)
    model.set_experts_implementation(experts)
    model = get_peft_model(model, config()).train()
    with torch.autocast("cpu", torch.bfloat16):
        out = model(input_ids=TOKENS, labels=TOKENS)
    torch.testing.assert_close(out.logits.float(), expected, atol=5e-3, rtol=0)
    out.loss.backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in trained)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_adapters_in_the_precision_of_the_base(config, family_model):
    model = get_peft_model(family_model("olmoe").to(torch.bfloat16), config(), autocast_adapter_dtype=False).train()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {p.dtype for name, p in trained.items() if "router" not in name} == {torch.bfloat16}
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    assert all(parameter.grad is not None for parameter in trained.values())
