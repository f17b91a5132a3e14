"""How experts start: which numbers, what the model is then, and that it saves, loads and switches like any other."""

import math

import pytest
import torch
from accelerate import cpu_offload
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM

from tests.adapters.helpers import (
    TOKENS,
    assert_decoding_equals_the_full_forward,
    assert_loads_bit_equal_by_every_door,
    assert_switch_disable_and_delete,
    assert_training_moves_the_adapter_alone,
    by_peft,
    damage,
    gradients,
    logits,
    train,
)
from tests.adapters.test_kernels import KERNELS, assert_near, layer, loop, outcome
from topiclora_cli.adapters import TopicLoraConfig
from topiclora_cli.adapters.counting import count_on, count_parameters
from topiclora_cli.adapters.init_from import load_experts, read_loras
from topiclora_cli.adapters.starts import RHO, random_a
from topiclora_cli.adapters.topiclora import TopicLoraLayer
from topiclora_cli.errors import TopicLoraError

E, R = 4, 2


def layers(model):
    return [module for module in model.modules() if isinstance(module, TopicLoraLayer)]


def weights(mixture):
    return mixture.topiclora_A["default"].weight, mixture.topiclora_B["default"].weight


def test_kaiming_draws_the_numbers_it_always_did(family_model, adapted):
    base = family_model("llama")
    torch.manual_seed(3)
    model = adapted(base)
    torch.manual_seed(3)
    for mixture in layers(model):
        for expert in weights(mixture)[0]:
            assert torch.equal(expert, nn.init.kaiming_uniform_(torch.empty_like(expert), a=math.sqrt(5)))


@pytest.mark.parametrize(
    ("experts", "rank", "together"),
    [(4, 8, 4), (3, 8, 3), (9, 8, 4), (2, 20, 1)],
    ids=["full", "room left", "more than fit", "one basis each"],
)
def test_orthogonal_experts_read_subspaces_of_their_own(experts, rank, together):
    size = 32
    rows = random_a(experts, rank, size, orthogonal=True)
    assert rows.shape == (experts, rank, size)
    for block in rows.split(together):
        flat = block.flatten(0, 1)
        torch.testing.assert_close(flat @ flat.T, torch.eye(len(flat)) / 3, atol=1e-6, rtol=0)
    if experts > together:
        assert not torch.allclose(rows[0], rows[together])


def test_orthogonal_entries_are_as_large_as_kaiming_ones():
    for experts, rank in ((8, 4), (2, 40)):  # the second of more rows than columns
        drawn = [random_a(experts, rank, 32, orthogonal=orthogonal) for orthogonal in (False, True)]
        assert drawn[1].std() == pytest.approx(drawn[0].std().item(), rel=0.05)


def test_one_a_for_all_experts_has_orthogonal_rows(family_model, adapted):
    for mixture in layers(adapted(family_model("llama"), init="orthogonal", shared_a=True, r=6)):
        lora_a = weights(mixture)[0][0]
        torch.testing.assert_close(lora_a @ lora_a.T, torch.eye(6) / 3, atol=1e-6, rtol=0)


@pytest.mark.parametrize("settings", [{}, {"top_k": 2}, {"router": "linear", "shared_a": True}], ids=str)
def test_the_first_step_of_orthogonal_experts_is_as_large_as_of_kaiming_ones(settings):
    def moved(init):
        total = 0.0
        for seed in range(3):
            torch.manual_seed(seed)
            x, target = torch.randn(2, 128, 256)
            config = TopicLoraConfig(r=8, num_experts=E, target_modules=["proj"], init=init, **settings)
            layer = get_peft_model(nn.ModuleDict({"proj": nn.Linear(256, 128)}), config).base_model.model.proj
            optimizer = torch.optim.Adam([p for p in layer.parameters() if p.requires_grad], lr=1e-3)
            before = layer(x)
            (before - target[:, :128]).square().mean().backward()
            optimizer.step()
            total += (layer(x) - before).norm().item()
        return total

    assert moved("orthogonal") / moved("kaiming") == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("init", ["kaiming", "orthogonal"])
def test_without_b_the_start_is_the_base_to_the_bit(init, family_model, adapted):
    expected = logits(family_model("llama"))
    assert torch.equal(logits(adapted(family_model("llama"), init=init, top_k=2, kernel="plain")), expected)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_experts_start_with_segments_of_the_spectrum(name, family_model, adapted):
    model = adapted(family_model(name), init="svd", lora_alpha=6)
    for mixture in layers(model):
        (lora_a, lora_b), base = weights(mixture), mixture.get_base_layer().weight
        left, values, right = torch.linalg.svd(base if name == "llama" else base.T, full_matrices=False)
        for e in range(E):
            part = slice(e * (len(values) // E), e * (len(values) // E) + R)
            segment = left[:, part] * values[part] @ right[part] / RHO
            torch.testing.assert_close(3 * lora_b[e].T @ lora_a[e], segment, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kernel", ["plain", "dense"])
def test_under_even_gates_a_spectral_start_is_the_base(kernel, family_model, adapted):
    for settings in ({}, {"plain_modules": ["q_proj"], "lora_alpha": 3}, {"shared_experts": 2}):
        base = family_model("llama").double()
        expected = logits(base)
        model = adapted(base, init="svd", router="uniform", kernel=kernel, **settings)
        torch.testing.assert_close(logits(model), expected, atol=1e-12, rtol=0)


def test_the_leading_segments_go_to_the_experts_that_every_token_passes_through(family_model, adapted):
    model = adapted(family_model("llama"), init="svd", shared_experts=1)
    mixture = layers(model)[0]
    products = [b.T @ a for a, b in zip(*weights(mixture), strict=True)]
    sizes = torch.stack([torch.linalg.matrix_norm(product, 2) for product in products])
    assert sizes.argsort(descending=True).tolist() == [4, 0, 1, 2, 3]


JOINED = {"shared_experts": 2, "shared_gate": "softmax"}


@pytest.mark.parametrize("more", [{}, {"shared_experts": 1}, JOINED], ids=["routed", "shared", "joined"])
@pytest.mark.parametrize("settings", [{"top_k": 1}, {"top_k": 2, "scaling": "total"}, {"top_p": 0.6}, {}], ids=str)
def test_where_gates_go_by_tokens_a_spectral_start_is_the_base_in_the_mean_over_them(settings, more):
    torch.manual_seed(0)
    holder = nn.ModuleDict({"proj": nn.Linear(24, 16)}).double()
    config = TopicLoraConfig(
        r=2, num_experts=E, target_modules=["proj"], router="linear", init="svd", **settings, **more
    )
    mixture = get_peft_model(holder, config).base_model.model.proj
    x = torch.randn(24, dtype=torch.float64)
    router = mixture.topiclora_router["default"]
    for parameter in router.parameters():
        parameter.data.zero_()
    total = 0
    for turn in range(E):  # every expert is each turn's favourite once, by nearly nothing
        scores = 1e-9 * ((torch.arange(E) + turn) % E).double()
        router.weight.data = (scores[:, None] * x / x.square().sum()).to(router.weight.dtype)
        total = total + mixture(x)
    torch.testing.assert_close(total / E, mixture.base_layer(x), atol=1e-8, rtol=0)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("settings", [{}, {"top_k": 2}, {"top_k": 1}], ids=str)
@pytest.mark.parametrize("init", ["orthogonal", "svd"])
def test_equals_a_loop_over_experts(init, settings, kernel):
    mixture = layer(kernel, init=init, r=1, **settings)
    x = torch.randn(2, 3, mixture.in_features, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def naive(x):
        if init != "svd":
            return loop(mixture, x)
        start = mixture.topiclora_start["default"]
        return loop(mixture, x) - sum(x @ a.T @ b for a, b in zip(start.start_a, start.start_b, strict=True))

    assert_near(outcome(mixture, mixture, x), outcome(naive, mixture, x), 1e-10)


@pytest.mark.parametrize("init", ["kaiming", "orthogonal", "svd"])
def test_saves_and_loads_bit_equal_by_every_door(init, tiny_model_dir, tmp_path):
    def fresh():
        return AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval()

    config = TopicLoraConfig(r=R, num_experts=E, top_k=2, target_modules="all-linear", task_type="CAUSAL_LM", init=init)
    model = get_peft_model(fresh(), config)
    train(model)
    model.save_pretrained(tmp_path)
    assert_loads_bit_equal_by_every_door(tmp_path, fresh, logits(model))


def test_a_spectral_start_trains_the_adapter_alone_and_leaves_the_base_as_it_was(family_model, adapted):
    model = adapted(family_model("llama"), init="svd", top_k=2)
    assert_training_moves_the_adapter_alone(model, below=0.96)
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(family_model("llama")))
    assert torch.equal(logits(model.unload()), logits(family_model("llama")))


def test_spectral_adapters_switch_and_add_up(family_model, adapted):
    model = adapted(family_model("llama"), init="svd", top_k=2)
    train(model, 2)
    first = logits(model)
    second_config = TopicLoraConfig(r=3, num_experts=2, init="svd", target_modules=["q_proj", "down_proj"])
    model.add_adapter("second", second_config)
    model.set_adapter("second")
    train(model, 2)
    second = logits(model)
    model.base_model.set_adapter(["default", "second"])
    for mixture in layers(model):
        x = torch.randn(3, mixture.in_features)
        both, base = mixture(x), mixture.base_layer(x)
        parts = []
        for name in mixture.topiclora_B:
            mixture.set_adapter([name])
            parts.append(mixture(x) - base)
        torch.testing.assert_close(both, base + sum(parts))
    model.set_adapter("second")
    assert_switch_disable_and_delete(model, first, second, lambda: family_model("llama"))
    assert all(set(mixture.topiclora_start) <= {"second"} for mixture in layers(model))


def test_a_spectral_start_takes_no_decomposition_to_load(family_model, adapted, tmp_path, monkeypatch):
    model = adapted(family_model("llama"), init="svd")
    expected = logits(model)
    model.save_pretrained(tmp_path)
    monkeypatch.setattr(torch.linalg, "svd", None)
    assert torch.equal(logits(PeftModel.from_pretrained(family_model("llama"), tmp_path)), expected)


def test_a_loaded_spectral_adapter_trains_on(family_model, adapted, tmp_path):
    model = adapted(family_model("llama"), init="svd", top_k=2)
    train(model, 2)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(family_model("llama"), tmp_path, is_trainable=True)
    assert train(again, 3) == train(model, 3)


def test_decoding_with_a_cache(family_model, adapted):
    model = adapted(family_model("llama"), init="svd", top_k=2)
    train(model, 2)
    assert_decoding_equals_the_full_forward(model, logits(model)[:, 4:])


def test_beside_a_base_in_16_bits_what_is_subtracted_stays_in_32(family_model, adapted, tmp_path):
    base = family_model("llama").bfloat16()
    expected = logits(base)
    model = adapted(base, init="svd", router="uniform")
    for mixture in layers(model):
        start = mixture.topiclora_start["default"]
        assert (start.start_a.dtype, weights(mixture)[0].dtype) == (torch.float32, torch.float32)
        x = torch.randn(5, mixture.in_features)
        torch.testing.assert_close(
            mixture._delta("default", x, mixture._routing("default", x), weights(mixture)), start(x)
        )
    assert (logits(model) - expected).abs().max() <= 0.02 * expected.abs().max()
    train(model, 1)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(family_model("llama").bfloat16(), tmp_path)
    assert torch.equal(logits(loaded), logits(model))


def test_counting_knows_what_trains_and_needs_no_weights(family_model, adapted):
    settings = {"r": R, "num_experts": E, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    counts = [count_on(family_model("llama"), TopicLoraConfig(**settings, init=i)) for i in ("kaiming", "svd")]
    assert counts[0] == counts[1] == count_parameters(adapted(family_model("llama"), init="svd"))


def test_gradients_reach_the_input_past_what_is_subtracted(family_model, adapted):
    model = adapted(family_model("llama").double(), init="svd", router="uniform", kernel="dense")
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    fused = gradients(model)
    for mixture in layers(model):
        mixture.topiclora_config["default"].kernel = "plain"
    model.zero_grad()
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(fused[name], gradient, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shared_a": True}, "init: svd.*shared_a"),
        ({"mixing": "ffn", "router_scope": "block", "router": "linear"}, "init: svd.*mixing: ffn"),
        ({"r": 9}, r"8 singular values of model\.layers\.0\..* for each of 4 experts, but r is 9"),
    ],
)
def test_what_has_no_spectral_start(settings, message, family_model, adapted):
    with pytest.raises(TopicLoraError, match=message) as error:
        adapted(family_model("llama"), init="svd", **settings)
    assert "\n" not in str(error.value)


def test_trained_adapters_do_not_start_what_has_started(family_model, adapted, tmp_path):
    get_peft_model(family_model("llama"), LoraConfig(r=R, target_modules=["q_proj"])).save_pretrained(tmp_path)
    sources = read_loras([tmp_path] * E)
    model = adapted(family_model("llama"), init="svd", target_modules=["q_proj"])
    with pytest.raises(TopicLoraError, match="init: svd"):
        load_experts(model, sources)


def test_a_damaged_start_is_named(family_model, adapted, tmp_path):
    adapted(family_model("llama"), init="svd").save_pretrained(tmp_path)
    damage(tmp_path, "start_b", float("nan"))
    with pytest.raises(TopicLoraError, match=r"layers\.0.*topiclora_start.*NaN"):
        by_peft(tmp_path, lambda: family_model("llama"))


def test_packed_or_offloaded_bases_have_no_spectrum(family_model, adapted):
    packed = family_model("llama")
    layer = packed.model.layers[1].mlp.up_proj
    layer.weight = nn.Parameter(layer.weight.detach().to(torch.int8), requires_grad=False)
    with pytest.raises(TopicLoraError, match=r"layers\.1\.mlp\.up_proj are quantised.*init: orthogonal"):
        adapted(packed, init="svd")
    offloaded = cpu_offload(family_model("llama"))
    with pytest.raises(TopicLoraError, match=r"those of model\.layers\.0\..* are offloaded"):
        adapted(offloaded, init="svd")
