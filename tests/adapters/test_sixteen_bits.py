"""Adapters on a base in 16 bits whose own weights stay in 16 bits: every router, kernel, scope and variant runs."""

import pytest
import torch
from peft import PeftModel, get_peft_model

from tests.adapters.helpers import TOKENS, logits
from topiclora_cli.adapters import PerftConfig, TopicLoraConfig
from topiclora_cli.adapters.routers import ROUTERS

ROWS = TOKENS.repeat(1, 4)  # enough to be sorted
SCOPES = {
    "linear": {},
    "layer": {"router_scope": "layer"},
    "ffn": {"router_scope": "block", "mixing": "ffn", "router": "linear"},
}
VARIANTS = {
    "routed": {},
    "topic": {"router": "topic"},
    "pretrained": {"router_weight_source": "pretrained", "adapter_type": "parallel"},
    "embedded": {"variant": "embedded"},
    "dense": {"variant": "dense"},
    "sparse": {"kernel": "sparse"},
}


def mixture(router, **settings):
    top_k = None if ROUTERS[router].chooses_itself else 2
    sizes = {"r": 8, "num_experts": 4, "top_k": top_k, "router_width": 8, "shared_a": router == "cosine"}
    return TopicLoraConfig(router=router, target_modules="all-linear", task_type="CAUSAL_LM", **{**sizes, **settings})


def in_16_bits(base, config, dtype=torch.bfloat16):
    return get_peft_model(base.to(dtype), config, autocast_adapter_dtype=False)


def assert_trains_and_decodes(model):
    assert {p.dtype for name, p in model.named_parameters() if "_A." in name} == {model.dtype}
    loss = model.train()(input_ids=ROWS, labels=ROWS).loss
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    with torch.no_grad():
        start = model.eval()(input_ids=TOKENS[:, :4], use_cache=True)
        assert model(input_ids=TOKENS[:, 4:], past_key_values=start.past_key_values).logits.dtype == model.dtype


@pytest.mark.parametrize("granularity", ["token", "prompt"])
@pytest.mark.parametrize("kernel", ["plain", "dense", "sparse"])
@pytest.mark.parametrize("router", ROUTERS)
def test_every_router_in_every_kernel(router, kernel, granularity, family_model):
    config = mixture(router, kernel=kernel, granularity=granularity)
    assert_trains_and_decodes(in_16_bits(family_model("llama"), config))


@pytest.mark.parametrize("settings", SCOPES.values(), ids=SCOPES)
def test_every_scope(settings, family_model):
    assert_trains_and_decodes(in_16_bits(family_model("llama"), mixture(**{"router": "topic", **settings})))


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_every_variant_of_perft(settings, family_model):
    config = PerftConfig(**{"r": 8, "num_adapters": 4, "task_type": "CAUSAL_LM", **settings})
    assert_trains_and_decodes(in_16_bits(family_model("olmoe"), config))


def test_in_float16(family_model):
    assert_trains_and_decodes(in_16_bits(family_model("llama"), mixture("topic"), torch.float16))


@pytest.mark.parametrize("autocast_adapter_dtype", [False, True])
@pytest.mark.parametrize("kind", ["mixture", "perft"])
def test_routers_keep_their_precision_through_every_door(kind, autocast_adapter_dtype, family_model, shaken, tmp_path):
    """A router rounded to 16 bits chooses other experts."""
    name = "llama" if kind == "mixture" else "olmoe"
    config = (
        mixture("topic", anchors=torch.randn(4, 5).tolist())
        if kind == "mixture"
        else PerftConfig(r=8, num_adapters=4, router="topic", task_type="CAUSAL_LM")
    )
    dtypes = {"autocast_adapter_dtype": autocast_adapter_dtype}
    model = shaken(get_peft_model(family_model(name).bfloat16(), config, **dtypes))
    model.save_pretrained(tmp_path)
    routers = {key: tensor for key, tensor in model.state_dict().items() if "_router." in key}
    assert {tensor.dtype for tensor in routers.values()} == {torch.float32}
    for low_cpu_mem_usage in (False, True):
        base = family_model(name).bfloat16()
        loaded = PeftModel.from_pretrained(base, tmp_path, low_cpu_mem_usage=low_cpu_mem_usage, **dtypes).eval()
        assert all(torch.equal(loaded.state_dict()[key], tensor) for key, tensor in routers.items())
        # Into an empty adapter peft loads A and B by way of the base's precision, those of LoRA too.
        assert low_cpu_mem_usage or torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize("name", ["llama", "olmoe"])
def test_an_empty_adapter_has_its_routers_empty_too(name, family_model):
    config = mixture("topic") if name == "llama" else PerftConfig(r=2, router="topic", task_type="CAUSAL_LM")
    model = get_peft_model(family_model(name), config, low_cpu_mem_usage=True)
    assert all(parameter.is_meta for parameter in model.parameters() if parameter.requires_grad)
