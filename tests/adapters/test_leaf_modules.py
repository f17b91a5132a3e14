"""A and B are leaf modules with a weight under the adapter's name, as other libraries expect of an adapter."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from peft.utils.other import fsdp_auto_wrap_policy

from tests.adapters.helpers import TOKENS, logits
from topiclora_cli.adapters import PerftConfig, TopicLoraConfig

ANCHORS = torch.randn(4, 9, generator=torch.Generator().manual_seed(1)).tolist()
MIXTURES = {
    "topic": {"router": "topic"},
    "anchored": {"router": "topic", "anchors": ANCHORS},
    "trained keys": {"router": "topic", "anchors": ANCHORS, "train_keys": True},
    "one router per layer": {"router": "linear", "router_scope": "layer", "top_k": 2},
    "cosine": {"router": "cosine", "shared_a": True},
    "graph": {"router": "graph"},
}


def copied_by_name(model):
    """What TRL does for the reference policy of DPO, KTO and GRPO when training goes on from an adapter."""
    model.add_adapter("ref", model.peft_config["default"])
    with torch.no_grad():
        for name, parameter in list(model.named_parameters()):
            if ".default." in name:
                model.get_parameter(name.replace(".default.", ".ref.")).copy_(parameter)
    return model


def assert_reference_is_the_adapter(model, fresh):
    expected = logits(model)
    assert not torch.equal(expected, logits(fresh()))
    copied_by_name(model).set_adapter("ref")
    assert torch.equal(logits(model.eval()), expected)


@pytest.mark.parametrize("settings", MIXTURES.values(), ids=MIXTURES)
@pytest.mark.parametrize("loaded", [False, True])
def test_a_reference_policy_is_the_adapter_and_not_the_base(settings, loaded, family_model, adapted, shaken, tmp_path):
    model = shaken(adapted(family_model("llama"), **settings))
    if loaded:  # from a file, which keeps no anchors
        model.save_pretrained(tmp_path)
        model = PeftModel.from_pretrained(family_model("llama"), tmp_path, is_trainable=True).eval()
    assert_reference_is_the_adapter(model, lambda: family_model("llama"))


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("variant", ["routed", "embedded", "dense", "shared"])
def test_a_reference_policy_of_perft(variant, loaded, family_model, shaken, tmp_path):
    routed = {"router": "topic", "anchors": ANCHORS} if variant == "routed" else {}
    config = PerftConfig(variant=variant, num_adapters=4, r=2, task_type="CAUSAL_LM", **routed)
    model = shaken(get_peft_model(family_model("olmoe"), config))
    if loaded:
        model.save_pretrained(tmp_path)
        model = PeftModel.from_pretrained(family_model("olmoe"), tmp_path, is_trainable=True).eval()
    assert_reference_is_the_adapter(model, lambda: family_model("olmoe"))


def test_every_trained_tensor_bears_the_adapters_name_between_dots(family_model, adapted):
    model = adapted(family_model("llama"), train_keys=True)
    assert all(".default." in name for name, p in model.named_parameters() if p.requires_grad)


@pytest.mark.parametrize("name", ["llama", "olmoe"])
def test_fsdps_wrapping_policy_finds_every_factor(name, family_model, adapted):
    model = (
        adapted(family_model(name))
        if name == "llama"
        else get_peft_model(family_model(name), PerftConfig(r=2, task_type="CAUSAL_LM"))
    )
    policy = fsdp_auto_wrap_policy(model)
    leaves = {key for key, module in model.named_modules() if policy(module=module, recurse=False, nonwrapped_numel=0)}
    factors = {key.removesuffix(".weight") for key, p in model.named_parameters() if "_A." in key or "_B." in key}
    assert factors
    assert factors <= leaves
    assert {key for key, module in model.named_modules() if not list(module.children())} >= factors


def test_hooks_on_every_module_leave_the_function_alone(family_model, adapted, shaken):
    model = shaken(adapted(family_model("llama")))
    expected, ran = logits(model), set()
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: ran.add(name))
    torch.testing.assert_close(logits(model), expected)
    assert any(name.endswith("q_proj") for name in ran)
    assert model(input_ids=TOKENS).logits.requires_grad


def test_a_twin_takes_the_keys_it_started_from_and_a_stranger_does_not(family_model, adapted):
    config = {"router": "topic", "num_experts": 4, "target_modules": ["q_proj"], "r": 2, "task_type": "CAUSAL_LM"}
    model = adapted(family_model("llama"), **config, anchors=ANCHORS)
    model.peft_config["default"].anchors = None  # as after loading
    model.add_adapter("twin", model.peft_config["default"])
    model.add_adapter("stranger", TopicLoraConfig(**{**config, "r": 3}))
    routers = model.base_model.model.model.layers[0].self_attn.q_proj.topiclora_router
    assert torch.equal(routers["twin"].keys, routers["default"].keys)
    assert not torch.equal(routers["stranger"].keys, routers["default"].keys)
