"""PERFT beside the blocks of many families, against a plain loop over tokens and adapters written from the paper."""

import pytest
import torch
import torch.nn.functional as F
from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

from tests.adapters.helpers import TOKENS, logits
from tests.conftest import shaken
from topiclora_cli.adapters import record_routing
from topiclora_cli.adapters.perft import PerftBlock
from topiclora_cli.errors import TopicLoraError

FAMILIES = ["olmoe", "mixtral", "qwen2_moe", "qwen3_moe", "granitemoe", "deepseek_v3", "gpt_oss"]
BLOCK_NAMES = {"granitemoe": "block_sparse_moe", "llama4_text": "feed_forward"}
NO_AUX_LOSS = ["deepseek_v3"]
VARIANTS = {
    "routed": {"num_adapters": 4, "renormalize": "off"},
    "routed-parallel": {"num_adapters": 4, "renormalize": "on", "adapter_type": "parallel"},
    "routed-sparse": {"num_adapters": 6, "r": 4, "renormalize": "on", "kernel": "sparse"},
    "routed-and-shared": {"num_adapters": 4, "shared_adapters": 2, "renormalize": "off"},
    "routed-and-shared-sparse": {"num_adapters": 6, "r": 4, "shared_adapters": 3, "kernel": "sparse"},
    "routed-pretrained-weights": {"num_adapters": 4, "router_weight_source": "pretrained"},
    "topic": {"num_adapters": 4, "router": "topic", "renormalize": "off"},
    "embedded": {"variant": "embedded"},
    "embedded-parallel-sparse": {"variant": "embedded", "adapter_type": "parallel", "kernel": "sparse", "r": 4},
    "dense": {"variant": "dense", "num_adapters": 3},
    "shared-parallel": {"variant": "shared", "adapter_type": "parallel"},
}
every_family = pytest.mark.parametrize("family", FAMILIES)
every_variant = pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS.keys())


def blocks(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, PerftBlock)}


def adapter(block, number, h):
    """Delta_j(h) = W_up act(W_down h), scaled if linear."""
    config = block.perft_config["default"]
    hidden = block.perft_A["default"].weight[number] @ h
    hidden = hidden * config.lora_alpha / config.r if config.adapter_type == "lora" else F.silu(hidden)
    return block.perft_B["default"].weight[number].T @ hidden


def weighted(block, h, base_weights, base_indices):
    """(weight, adapter) pairs of one token."""
    config = block.perft_config["default"]
    if config.variant in ("dense", "shared"):
        return [(1.0, number) for number in range(config.num_adapters)]
    if config.variant == "embedded":
        return list(zip(base_weights, base_indices, strict=True))
    router = block.perft_router["default"]
    if config.router == "topic":
        scores = router.keys @ (router.weight @ h) / len(router.keys) ** 0.5 + router.bias
    else:
        scores = router.weight @ h
    chosen = sorted(range(len(scores)), key=lambda number: -scores[number])[: config.top_k]
    weights = scores.softmax(0)[chosen]
    if config.router_weight_source == "pretrained":
        weights = base_weights.sort(descending=True).values[: config.top_k]
    elif config.renormalize == "on":
        weights = weights / weights.sum()
    always = [(1.0, number) for number in range(config.num_adapters, config.num_adapters + config.shared_adapters)]
    return [*zip(weights, chosen, strict=True), *always]


def with_naive_adapters(base, adapted):
    """Have the blocks of `base` add, token by token, what the adapters of `adapted` should."""
    for name, block in blocks(adapted).items():
        target = base.get_submodule(name.removeprefix("base_model.model."))
        decision = []
        router = target.gate if hasattr(target, "gate") else target.router
        router.register_forward_hook(lambda _, args, out, decision=decision: decision.extend(out[1:3]))

        def add(_, args, out, block=block, decision=decision):
            rows = args[0].reshape(-1, args[0].shape[-1])
            weights, indices = decision[-2:]
            deltas = [
                sum(w * adapter(block, j, h) for w, j in weighted(block, h, *base))
                for h, *base in zip(rows, weights, indices, strict=True)
            ]
            total = torch.stack(deltas).view(args[0].shape)
            return (out[0] + total, *out[1:]) if isinstance(out, tuple) else out + total

        target.register_forward_hook(add)
    return base


@every_family
@every_variant
def test_every_variant_equals_a_loop_over_adapters(family, settings, moe_model, beside):
    model = shaken(beside(moe_model(family), **settings)).double()
    base = moe_model(family).double()
    base.set_experts_implementation("eager")
    before, expected = logits(base), logits(with_naive_adapters(base, model))
    assert (expected - before).abs().max() > 0.1
    for implementation, dtype, tolerance in (
        ("eager", torch.float64, 1e-9),
        ("batched_mm", torch.float64, 1e-9),
        ("grouped_mm", torch.float32, 1e-5),  # which knows no float64
    ):
        model.set_experts_implementation(implementation)
        ours = logits(model.to(dtype)).double()
        assert (ours - expected).abs().max() <= tolerance * expected.abs().max(), implementation


@pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
@every_family
def test_embedding_is_adding_each_adapter_inside_its_expert(family, implementation, moe_model, beside):
    model = shaken(beside(moe_model(family), variant="embedded"))
    model.set_experts_implementation(implementation)
    base = moe_model(family)
    for name, block in blocks(model).items():

        def inside(experts, args, out, block=block):
            rows, indices, weights = args
            one = torch.ones(len(rows), 1)
            total = torch.zeros_like(rows)
            for number in range(6):
                alone = experts.forward(rows, torch.full((len(rows), 1), number), one)  # E_i(h) of every token
                both = alone + torch.stack([adapter(block, number, h) for h in rows])
                total += ((indices == number) * weights).sum(-1, keepdim=True) * both
            return total

        base.get_submodule(name.removeprefix("base_model.model.")).experts.register_forward_hook(inside)
    torch.testing.assert_close(logits(model), logits(base), atol=1e-4, rtol=1e-5)


@every_family
def test_adapters_stand_beside_sparse_blocks_only(family, moe_model, beside):
    model = beside(moe_model(family))
    layers = [1] if family == "deepseek_v3" else [0, 1]  # its first layer is dense
    names = [f"model.layers.{layer}.{BLOCK_NAMES.get(family, 'mlp')}" for layer in layers]
    assert [block.name for block in blocks(model).values()] == names
    assert model.peft_config["default"].target_modules == set(names)
    assert sum("perft_" in name for name, _ in model.named_parameters()) == 3 * len(names)


@pytest.mark.parametrize("family", [*FAMILIES, "minimax"])  # the last finds its router by its path
@pytest.mark.parametrize("variant", ["routed", "embedded"])
def test_the_base_routers_report_as_before(family, variant, moe_model, beside):
    model, base = beside(moe_model(family), variant=variant), moe_model(family)
    with torch.no_grad():
        for block in blocks(model).values():
            block.perft_B["default"].weight.zero_()
        outputs = [m(input_ids=TOKENS, labels=TOKENS, output_router_logits=True) for m in (base, model)]
    if family in NO_AUX_LOSS:
        return
    before, after = outputs
    assert len(before.router_logits) == len(after.router_logits) == 2
    assert all(torch.equal(*pair) for pair in zip(before.router_logits, after.router_logits, strict=True))
    assert torch.equal(after.aux_loss, before.aux_loss)
    assert torch.equal(after.loss, before.loss)


@every_family
@every_variant
def test_gradients_flow_and_what_is_recorded_adds_up(family, settings, moe_model, beside):
    model = shaken(beside(moe_model(family), **settings)).train()
    with record_routing(model) as record:
        loss = model(input_ids=TOKENS, labels=TOKENS).loss
    loss.backward()
    pretrained = settings.get("router_weight_source") == "pretrained"
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert bool(parameter.grad is not None and parameter.grad.any()) != (pretrained and "router" in name), name
    names = {block.name for block in blocks(model).values()}
    variant = settings.get("variant", "routed")
    assert set(record.logits) == (names if variant == "routed" else set())
    assert set(record.gates) == (names if variant in ("routed", "embedded") else set())
    for gates in record.gates.values():
        active = 3 if variant == "embedded" else 2
        assert ((gates > 0).sum(-1) == active).all()
        if settings.get("renormalize") == "on":
            torch.testing.assert_close(gates.sum(-1), torch.ones(gates.shape[:-1]))


@pytest.mark.parametrize("settings", [{}, {"variant": "dense", "num_adapters": 3}, {"variant": "shared"}])
def test_experts_that_are_not_called_with_indices(settings, moe_model, beside):
    model = shaken(beside(moe_model("llama4_text"), **settings))
    assert [block.name for block in blocks(model).values()] == [f"model.layers.{i}.feed_forward" for i in (0, 1)]
    x = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(3))
    for block in blocks(model).values():
        with torch.no_grad():
            (out, router), (base, base_router) = block(x), block.get_base_layer()(x)
            expected = [sum(w * adapter(block, j, h) for w, j in weighted(block, h, [], [])) for h in x.view(-1, 32)]
        assert torch.equal(router, base_router)
        torch.testing.assert_close(out - base, torch.stack(expected), atol=1e-4, rtol=1e-4)
    assert not torch.equal(logits(model), logits(moe_model("llama4_text")))


@pytest.mark.parametrize("settings", [{"variant": "embedded"}, {"router_weight_source": "pretrained"}])
def test_following_a_router_that_experts_do_not_hear_is_refused(settings, moe_model, beside):
    settings = {"top_k": 1, **settings}
    with pytest.raises(TopicLoraError, match=r"layers\.0\.feed_forward: Llama4TextExperts is not called .* routed"):
        beside(moe_model("llama4_text"), **settings)


@pytest.mark.parametrize("every", ["experts", "all-linear", None])
def test_all_blocks_have_several_names(every, moe_model, beside):
    assert len(blocks(beside(moe_model(), target_modules=every))) == 2


def test_a_dense_model_is_refused(moe_model, beside):
    with pytest.raises(TopicLoraError, match="no mixture-of-experts block"):
        beside(moe_model("llama"))


@pytest.mark.parametrize("variant", ["routed", "embedded"])
def test_the_language_part_of_a_model_of_text_and_images(variant, moe_sizes, beside):
    text = {**moe_sizes, "head_dim": 8, "norm_topk_prob": False}
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}
    config = Qwen3VLMoeConfig(text_config=text, vision_config={**vision, "deepstack_visual_indexes": [0]})
    torch.manual_seed(0)
    base = Qwen3VLMoeForConditionalGeneration(config).eval()
    before, model = logits(base), beside(base, variant=variant)
    assert [block.name for block in blocks(model).values()] == [f"model.language_model.layers.{i}.mlp" for i in (0, 1)]
    assert all(block.perft_config["default"].renormalize != "on" for block in blocks(model).values())
    assert not torch.allclose(logits(shaken(model)), before, atol=1e-2)
    assert torch.equal(logits(model.unload()), before)
