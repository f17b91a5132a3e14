"""Plain LoRA on a sparse base: on attention, on its routers, on its fused experts."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer

from tests.conftest import shaken
from topiclora_cli.adapters.counting import activated_base_parameters, adapted_modules, count_parameters
from topiclora_cli.adapters.moe_blocks import moe_blocks, require_moe_blocks
from topiclora_cli.adapters.presets import make_config
from topiclora_cli.adapters.targets import resolve_moe_role, resolve_targets
from topiclora_cli.adapters.tuner import Described
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import build_recipe

TOKENS = torch.tensor([[5, 9, 12, 7, 30, 8, 3, 41]])
BASELINES = ("lora-qv", "lora-router", "lora-experts")
SPARSE = ("olmoe", "mixtral", "qwen2_moe", "qwen3_moe", "granitemoe", "gpt_oss", "deepseek_v3", "llama4_text")
ROUTERS = {"granitemoe": "router", "gpt_oss": "router", "llama4_text": "router"}


def settings(method, **changes):
    recipe = {"name": "-", "model": {"name": "-"}, "adapter": {"method": method, **changes}}
    return build_recipe(recipe, where=method).adapter.model_dump()


def adapted(method, base, **changes):
    return get_peft_model(base, make_config("lora", settings(method, **changes), base)).eval()


def logits(model):
    with torch.no_grad():
        return model(input_ids=TOKENS, use_cache=False).logits


def fits(method, family):
    # DeepSeek's attention has no q_proj or v_proj, but low-rank projections of other names.
    return (method, family) != ("lora-qv", "deepseek_v3")


CASES = [(method, family) for method in BASELINES for family in SPARSE if fits(method, family)]


@pytest.mark.parametrize("family", SPARSE)
def test_blocks_are_found_on_bare_and_on_adapted_models(family, family_model):
    base = family_model(family)
    found = [(block.name, block.router_name, block.num_experts, block.top_k) for block in moe_blocks(base)]
    parent = {"granitemoe": "block_sparse_moe", "llama4_text": "feed_forward"}.get(family, "mlp")
    layers = [1] if family == "deepseek_v3" else [0, 1]
    top_k = 1 if family == "llama4_text" else 2
    assert found == [(f"model.layers.{n}.{parent}", ROUTERS.get(family, "gate"), 4, top_k) for n in layers]
    routers = [block.router for block in moe_blocks(base)]
    model = adapted("lora-experts", adapted("lora-router", base).get_base_model())
    again = moe_blocks(model.get_base_model())
    assert [(block.name, block.router_name, block.num_experts, block.top_k) for block in again] == found
    assert all(block.router is router for block, router in zip(again, routers, strict=True))


@pytest.mark.parametrize(("method", "family"), CASES)
def test_baseline_starts_as_the_base_trains_and_loads_bit_equal(method, family, family_model, tmp_path):
    expected = logits(family_model(family))
    model = adapted(method, family_model(family))
    assert torch.equal(logits(model), expected)
    model.train()
    loss = model(input_ids=TOKENS, labels=TOKENS, use_cache=False).loss
    loss.backward()
    for name, parameter in model.named_parameters():
        assert ("lora_" in name) == parameter.requires_grad
        assert ("lora_B" not in name) or parameter.grad.abs().sum() > 0, name
    shaken(model)
    assert not torch.equal(logits(model), expected)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(family_model(family), tmp_path).eval()
    assert torch.equal(logits(loaded), logits(model))
    with model.disable_adapter():
        assert torch.equal(logits(model), expected)


def test_router_and_experts_become_modules_or_parameters(family_model):
    assert resolve_moe_role(family_model("gpt_oss"), "router") == ([], ["router.weight"])
    assert resolve_moe_role(family_model("gpt_oss"), "experts") == ([], ["down_proj", "gate_up_proj"])
    # Llama 4's router is an nn.Linear that returns two tensors: a linear layer in its place would break the model.
    assert resolve_moe_role(family_model("llama4_text"), "router") == ([], ["router.weight"])
    base = family_model("olmoe")
    for block in moe_blocks(base):
        block.module.experts = torch.nn.ModuleList(torch.nn.Linear(32, 32) for _ in range(4))
        block.module.gate = torch.nn.Linear(32, 4, bias=False)
    assert resolve_moe_role(base, "experts")[0] == ["0", "1", "2", "3"]
    assert resolve_moe_role(base, "router") == (["gate"], [])
    assert [(block.num_experts, block.top_k) for block in moe_blocks(base)] == [(4, 2)] * 2


@pytest.mark.parametrize("role", ["router", "experts"])
def test_roles_of_a_sparse_base_are_errors_elsewhere(role, tiny_model, family_model):
    with pytest.raises(TopicLoraError, match=r"The base model \(llama\) has no mixture-of-experts block"):
        make_config("lora", settings("lora", target_modules=role), tiny_model)
    for method in (None, "adalora"):
        with pytest.raises(TopicLoraError, match=f"{role}' works with peft's LoRA only"):
            make_config(method, settings("topiclora", target_modules=role), family_model("olmoe"))
    with pytest.raises(TopicLoraError, match="plain_modules"):
        resolve_targets(tiny_model, role, key="plain_modules")
    with pytest.raises(TopicLoraError, match="no mixture-of-experts block"):
        require_moe_blocks(tiny_model)


# peft refuses the first two in words that name no key, and passes over the others without a word.
@pytest.mark.parametrize(
    ("key", "value"),
    [("lora_dropout", 0.1), ("use_dora", True), ("layers_to_transform", [1]), ("exclude_modules", ["experts"])],
)
def test_what_peft_cannot_do_on_bare_parameters_is_an_error(key, value, family_model):
    with pytest.raises(TopicLoraError, match=f"adapter.{key} does not work on target_modules: experts"):
        make_config("lora", settings("lora-experts", **{key: value}), family_model("olmoe"))


@pytest.mark.parametrize("family", SPARSE)
def test_lora_on_experts_counts_the_experts_that_the_base_chooses(family, family_model):
    model = adapted("lora-experts", family_model(family))
    experts = moe_blocks(model)[0].experts
    per_expert = sum(8 * sum(p.shape[1:]) for p in experts.parameters() if p.ndim == 3)
    blocks, top_k = len(moe_blocks(model)), moe_blocks(model)[0].top_k
    assert count_parameters(model) == (blocks * 4 * per_expert, blocks * top_k * per_expert)
    rows = {row.name: row for row in adapted_modules(model)}
    assert set(rows) == {"experts.gate_up_proj", "experts.down_proj"}
    assert {(row.count, row.experts, row.rank, row.router) for row in rows.values()} == {(blocks, "4", "8", "-")}
    assert sum(row.parameters for row in rows.values()) == blocks * 4 * per_expert


def test_lora_on_routers_is_active_throughout(family_model):
    model = adapted("lora-router", family_model("olmoe"))
    assert count_parameters(model) == (2 * 8 * (32 + 4), 2 * 8 * (32 + 4))
    (row,) = adapted_modules(model)
    assert (row.name, row.count, row.shape, row.experts) == ("gate.weight", 2, "32 -> 4", "1")


def test_the_base_counts_the_experts_of_one_token(family_model, tiny_model):
    base = family_model("gpt_oss")
    experts = sum(p.numel() for name, p in base.named_parameters() if ".experts." in name)
    total = sum(p.numel() for p in base.parameters())
    assert activated_base_parameters(base) == total - experts // 2
    assert activated_base_parameters(tiny_model) == sum(p.numel() for p in tiny_model.parameters())


def test_a_layer_around_a_whole_block_counts_for_itself(family_model):
    """The seam for layers that are not beside a linear layer."""

    class Beside(torch.nn.Module, BaseTunerLayer):
        adapter_layer_names = ("beside",)

        def __init__(self, base_layer):
            super().__init__()
            self.base_layer, self._active_adapter = base_layer, ["default"]
            self.beside = torch.nn.ModuleDict({"default": torch.nn.Linear(32, 32, bias=False)})

        def idle_parameters(self, adapter_name):
            return 512

        def describe(self, adapter_name):
            return Described(4, 2, "learnt")

    model = adapted("lora-qv", family_model("olmoe"))
    before = count_parameters(model)
    for layer in model.get_base_model().model.layers:
        layer.mlp = Beside(layer.mlp)
    total, activated = count_parameters(model)
    assert (total - before[0], activated - before[1]) == (2 * 1024, 2 * 512)
    row = next(row for row in adapted_modules(model) if row.router == "learnt")
    assert (row.count, row.shape, row.experts, row.rank, row.parameters) == (2, "", "4", "2", 2 * 1024)
    assert [block.name for block in moe_blocks(model.get_base_model())] == ["model.layers.0.mlp", "model.layers.1.mlp"]
