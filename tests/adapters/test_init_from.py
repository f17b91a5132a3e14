"""Trained LoRA adapters become experts: alone each is what stock peft makes of it, mixed evenly their average."""

import json
import math
import shutil
import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from topiclora_cli.adapters import TopicLoraConfig
from topiclora_cli.adapters.init_from import load_experts, read_loras
from topiclora_cli.adapters.topiclora import TopicLoraLayer
from topiclora_cli.errors import TopicLoraError

TOKENS = torch.tensor([[5, 9, 12, 7, 30, 8], [4, 4, 21, 17, 6, 11]])
LORAS = {
    "rank-2": {"r": 2, "lora_alpha": 5, "target_modules": ["q_proj", "v_proj"]},
    "rank-4-rslora-patterns": {
        "r": 4,
        "lora_alpha": 3,
        "use_rslora": True,
        "target_modules": ["q_proj", "down_proj"],
        "rank_pattern": {"layers.1.self_attn.q_proj": 3, "down_proj": 5},
        "alpha_pattern": {"down_proj": 7},
    },
    "rank-3-bfloat16": {
        "r": 3,
        "lora_alpha": 6,
        "target_modules": ["layers.0.mlp.gate_proj", "layers.0.mlp.up_proj"],
        "init_lora_weights": "gaussian",
    },
}
Q0, Q1, DOWN0 = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj", "model.layers.0.mlp.down_proj"
KEY = f"base_model.model.{Q0}.lora_A.weight"


@pytest.fixture(scope="module")
def folders(tiny_model_dir, tmp_path_factory):
    """Stock adapters of different rank, scaling, precision and targets, as peft saves them."""
    root = tmp_path_factory.mktemp("loras")
    generator = torch.Generator().manual_seed(0)
    for name, settings in LORAS.items():
        model = get_peft_model(fresh(tiny_model_dir), LoraConfig(task_type="CAUSAL_LM", **settings))
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
                if "bfloat16" in name:
                    parameter.data = parameter.data.bfloat16()
        model.save_pretrained(root / name)
    return [root / name for name in LORAS]


def fresh(tiny_model_dir):
    return AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval()


def mixture(base, folders, **changes):
    """A mixture that starts from these adapters, and what was read of them."""
    sources = read_loras(folders)
    config = TopicLoraConfig(**{**sources.settings(), "router": "static", "task_type": "CAUSAL_LM", **changes})
    model = get_peft_model(base, config).eval()
    load_experts(model, sources)
    return model, sources


def layers_of(model):
    return {m.name: m for m in model.modules() if isinstance(m, TopicLoraLayer)}


def choose(model, expert, adapter="default"):
    """Have every static router give all weight to one expert."""
    for layer in layers_of(model).values():
        layer.topiclora_router[adapter].logits.data.zero_()[expert] = 1e4


@torch.no_grad()
def logits(model):
    return model(input_ids=TOKENS).logits


def test_settings_are_the_largest_rank_and_every_adapted_module(folders):
    sources = read_loras([str(folder) for folder in folders])
    settings = sources.settings()
    modules = settings.pop("target_modules")
    scaling = {"lora_alpha": 5.0, "scaling": "expert", "use_rslora": False}
    assert settings == {"num_experts": 3, "r": 5, "shared_a": False, **scaling}
    both = [f"model.layers.{i}.{m}" for i in (0, 1) for m in ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")]
    assert modules == sorted([*both, "model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj"])
    assert TopicLoraConfig(**sources.settings()).scale == 1
    assert [len(expert) for expert in sources.experts] == [4, 4, 2]
    assert {t.dtype for expert in sources.experts for factors in expert.values() for t in factors} == {torch.float32}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"kernel": "plain"},
        {"lora_alpha": 2.0, "scaling": "sqrt"},
        {"lora_alpha": 3.0, "scaling": "total", "top_k": 1},
        {"r": 8},
    ],
)
def test_each_expert_alone_is_its_adapter_in_stock_peft(changes, tiny_model, tiny_model_dir, folders):
    model, sources = mixture(tiny_model, folders, **changes)
    assert set(layers_of(model)) == set(sources.settings()["target_modules"])
    for expert, folder in enumerate(folders):
        choose(model, expert)
        expected = logits(PeftModel.from_pretrained(fresh(tiny_model_dir), folder).eval())
        assert (expected - logits(fresh(tiny_model_dir))).abs().max() > 0.1
        torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)


def test_even_gates_are_the_average_of_the_adapters(tiny_model, tiny_model_dir, folders):
    model, _ = mixture(tiny_model, folders, router="uniform")
    stock = PeftModel.from_pretrained(fresh(tiny_model_dir), folders[0], adapter_name="0")
    for index, folder in enumerate(folders[1:], 1):
        stock.load_adapter(folder, adapter_name=str(index))
    stock.add_weighted_adapter(["0", "1", "2"], [1 / 3] * 3, "average", combination_type="cat")
    stock.set_adapter("average")
    torch.testing.assert_close(logits(model), logits(stock.eval()), atol=1e-5, rtol=1e-5)


def test_order_of_the_folders_is_the_order_of_the_experts(tiny_model, folders):
    forward, backward = read_loras(folders), read_loras(folders[::-1])
    assert backward.folders == tuple(folders[::-1])
    for one, other in zip(forward.experts, backward.experts[::-1], strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name].b, other[name].b) for name in one)


def test_a_second_adapter_of_a_model_can_start_from_loras(tiny_model, tiny_model_dir, folders):
    model = get_peft_model(tiny_model, TopicLoraConfig(r=2, num_experts=4, target_modules=["q_proj", "o_proj"]))
    sources = read_loras(folders)
    model.add_adapter("other", TopicLoraConfig(**sources.settings(), router="static"))
    load_experts(model, sources, "other")
    assert not layers_of(model)[Q0].topiclora_B["default"].weight.any()
    model.set_adapter("other")
    for name, layer in layers_of(model).items():
        if "o_proj" not in name:
            layer.topiclora_router["other"].logits.data.copy_(torch.tensor([0, 1e4, 0]))
    expected = logits(PeftModel.from_pretrained(fresh(tiny_model_dir), folders[1]).eval())
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)


def test_spare_ranks_and_lacking_modules_change_nothing_but_can_be_trained(tiny_model, folders):
    model, _ = mixture(tiny_model, folders, router="linear")
    model.train()(input_ids=TOKENS, labels=TOKENS).loss.backward()
    layers = layers_of(model)
    for name, expert, start in ((Q0, 0, 2), (Q0, 1, 4), (Q1, 1, 3), (DOWN0, 0, 0), (DOWN0, 2, 0)):
        lora_a, lora_b = layers[name].topiclora_A["default"].weight, layers[name].topiclora_B["default"].weight
        assert not lora_b[expert, start:].any()
        assert lora_a[expert, start:].any(-1).all()
        assert lora_b.grad[expert, start:].any(-1).all()


@pytest.mark.parametrize("train_experts", [False, True])
def test_experts_train_unless_frozen(train_experts, tiny_model, folders):
    model, _ = mixture(tiny_model, folders, router="linear", top_k=2, train_experts=train_experts)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        model.train()(input_ids=TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    routers = {name for name in before if ".topiclora_router." in name}
    experts = {name for name in before if ".topiclora_A." in name or ".topiclora_B." in name}
    assert len(routers) == 8
    assert moved == (routers | experts if train_experts else routers)


@pytest.mark.parametrize("train_experts", [False, True])
def test_saved_mixture_loads_bit_equal(train_experts, tiny_model, tiny_model_dir, folders, tmp_path):
    model, _ = mixture(tiny_model, folders, router="topic", top_k=2, train_experts=train_experts)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(fresh(tiny_model_dir), tmp_path).eval()
    assert torch.equal(logits(loaded), logits(model))


def test_one_adapter_makes_one_expert(tiny_model, tiny_model_dir, folders):
    model, _ = mixture(tiny_model, folders[:1])
    expected = logits(PeftModel.from_pretrained(fresh(tiny_model_dir), folders[0]).eval())
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)


def test_other_base_models_warn(folders, tmp_path):
    other = shutil.copytree(folders[0], tmp_path / "other")
    edit_config(other, base_model_name_or_path="someone/else")
    with pytest.warns(UserWarning, match="different base models.*someone/else"):
        read_loras([folders[0], other])
    edit_config(other, base_model_name_or_path=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_loras([folders[0], other])


def edit_config(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(folder, edit):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


def rename(old, new):
    return lambda tensors: tensors.update({new: tensors.pop(old)})


BAD_CONFIGS = [
    ({"peft_type": "ADALORA"}, "'ADALORA', not 'LORA'"),
    ({"peft_type": None}, "peft_type is None"),
    ({"use_dora": True}, "use_dora is set"),
    ({"use_qalora": True}, "use_qalora"),
    ({"lora_bias": True}, "lora_bias"),
    ({"alora_invocation_tokens": [3]}, "alora_invocation_tokens"),
    ({"layer_replication": [[0, 2]]}, "layer_replication"),
    ({"bias": "lora_only"}, "bias is 'lora_only'"),
    ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ({"target_parameters": ["experts.gate_up_proj"]}, "target_parameters"),
    ({"trainable_token_indices": [1]}, "trainable_token_indices"),
    ({"init_lora_weights": "pissa_niter_4"}, "'pissa_niter_4', which alters the base model"),
    ({"init_lora_weights": "olora"}, "path_initial_model_for_weight_conversion"),
    ({"r": 3}, "2 in lora_A and 2 in lora_B, but r is 3"),
    ({"rank_pattern": {"q_proj": 1}}, f"{Q0} has rank 2 in lora_A .* but r is 1"),
    ({"rank_pattern": ["q_proj"]}, "r or rank_pattern gives"),
    ({"lora_alpha": None}, "lora_alpha or alpha_pattern gives None"),
    ({"alpha_pattern": {"v_proj": math.nan}}, "gives nan for .*v_proj"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_CONFIGS)
def test_adapters_that_are_no_plain_lora_are_refused(changes, message, folders, tmp_path):
    bad = shutil.copytree(folders[0], tmp_path / "bad")
    edit_config(bad, **changes)
    with pytest.raises(TopicLoraError, match=message) as refusal:
        read_loras([folders[1], bad])
    assert refusal.value.message.startswith(str(bad))
    assert refusal.value.hint
    assert "\n" not in str(refusal.value)


BAD_TENSORS = [
    (lambda t: t[KEY].fill_(math.nan), f"{KEY} holds NaN"),
    (lambda t: t[KEY][0].fill_(math.inf), "or infinity"),
    (lambda t: t.pop(KEY), f"{Q0} has lora_B only"),
    (lambda t: t.clear(), "holds no LoRA"),
    (lambda t: t.update({KEY: t[KEY][:1].clone()}), "1 in lora_A and 2 in lora_B"),
    (lambda t: t.update({KEY: t[KEY][None].clone()}), "not the LoRA of a linear layer"),
    (rename(KEY, "base_model.model.model.embed_tokens.lora_embedding_A"), "embed_tokens.lora_embedding_A is not"),
    (rename(KEY, f"base_model.model.{Q0}.lora_magnitude_vector"), "lora_magnitude_vector is not"),
    (rename(KEY, "base_model.model.model.layers.0.mlp.experts.lora_A.weight"), "experts.lora_A.weight is not"),
    (rename(KEY, "base_model.model.model.layers.0.mlp.experts.1.w1.lora_A.weight"), "w1.lora_A.weight is not"),
    (lambda t: t.update({"base_model.model.lm_head.weight": torch.zeros(2, 2)}), "lm_head.weight is not the LoRA"),
]


@pytest.mark.parametrize(("edit", "message"), BAD_TENSORS)
def test_tensors_that_are_no_lora_of_a_linear_layer_are_refused(edit, message, folders, tmp_path):
    bad = shutil.copytree(folders[0], tmp_path / "bad")
    edit_tensors(bad, edit)
    with pytest.raises(TopicLoraError, match=message) as refusal:
        read_loras([bad])
    assert refusal.value.message.startswith(str(bad))


def test_missing_and_damaged_files_are_refused(folders, tmp_path):
    with pytest.raises(TopicLoraError, match="No LoRA adapter"):
        read_loras([])
    with pytest.raises(TopicLoraError, match=r"nowhere has no adapter_config\.json"):
        read_loras([tmp_path / "nowhere"])
    bad = shutil.copytree(folders[0], tmp_path / "bad")
    tensors, config = bad / "adapter_model.safetensors", bad / "adapter_config.json"
    whole = tensors.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"no tensors here"):
        tensors.write_bytes(damaged)
        with pytest.raises(TopicLoraError, match=r"adapter_model\.safetensors is damaged"):
            read_loras([bad])
    tensors.rename(bad / "adapter_model.bin")
    with pytest.raises(TopicLoraError, match=r"has no adapter_model\.safetensors.*with safetensors"):
        read_loras([bad])
    tensors.write_bytes(whole)
    for damaged, message in (("{", "is not JSON"), ("[]", "peft_type is None")):
        config.write_text(damaged)
        with pytest.raises(TopicLoraError, match=message):
            read_loras([bad])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_experts": 4}, f"rank-2: {Q0} has 4 experts here, for 3 adapters"),
        ({"plain_modules": ["q_proj"]}, "has 1 experts here"),
        ({"shared_a": True}, "3 experts that share one A here"),
        ({"r": 3}, "rank-4-rslora-patterns: .*down_proj has rank 5, but r is 3"),
        ({"target_modules": ["q_proj", "v_proj"]}, r"patterns adapts .*down_proj, which is no mixture layer"),
    ],
)
def test_mixtures_that_do_not_fit_are_refused(changes, message, tiny_model, folders):
    with pytest.raises(TopicLoraError, match=message):
        mixture(tiny_model, folders, **changes)


def test_a_refusal_leaves_the_model_as_it_was(tiny_model, folders, tmp_path):
    model, sources = mixture(tiny_model, folders)
    before = logits(model)
    wide = shutil.copytree(folders[0], tmp_path / "wide")
    edit_tensors(wide, lambda tensors: tensors.update({KEY: torch.ones(2, 40)}))
    with pytest.raises(TopicLoraError, match=f"wide: {Q0} maps 40 to 32 features, but 32 to 32 here"):
        load_experts(model, read_loras([*folders[1:], wide]))
    with pytest.raises(TopicLoraError, match="called 'other'"):
        load_experts(model, sources, "other")
    assert torch.equal(logits(model), before)
    load_experts(model, read_loras(folders[::-1]))
    load_experts(model, sources)
    torch.testing.assert_close(logits(model), before)


def test_empty_factors_are_refused(folders, tmp_path):
    bad = shutil.copytree(folders[0], tmp_path / "bad")
    edit_config(bad, r=0)
    edit_tensors(bad, lambda tensors: tensors.update({k: t.new_zeros(0, 0) for k, t in tensors.items()}))
    with pytest.raises(TopicLoraError, match="0 in lora_A and 0 in lora_B, but r is 0"):
        read_loras([bad])
