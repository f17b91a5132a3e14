"""Sparse upcycling: the mixture is the dense model's function, an ordinary checkpoint, and made once for a recipe."""

import json
import os
import shutil

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, MixtralForCausalLM

from tests.conftest import SMALL
from topiclora_cli.adapters.counting import activated_base_parameters
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.models import base as models
from topiclora_cli.models.base import load_base, upcycle_to
from topiclora_cli.models.upcycle import max_logit_difference, upcycle
from topiclora_cli.recipe import load_recipe
from topiclora_cli.recipe.schema import UpcycleSection
from topiclora_cli.stages.inputs import open_encoder

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
DENSE = {
    "llama": ("llama", {}),
    "tied": ("llama", {"tie_word_embeddings": True}),
    "unusual": (
        "llama",
        {"head_dim": 16, "hidden_act": "gelu", "rms_norm_eps": 1e-2, "rope_parameters": LLAMA3_ROPE},
    ),
    "mistral": ("mistral", {"sliding_window": None}),
    "windowed": ("mistral", {"sliding_window": 4}),
}
TOKENS = torch.arange(3, 51).reshape(2, 24)
EXPERT_WEIGHTS = ("gate_up_proj", "down_proj")


def tiny(family="llama", dtype=torch.float32, **changes):
    """A random model whose feed-forward blocks matter: at the usual initial size they change next to nothing."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**SMALL, **changes})
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    for name, parameter in model.named_parameters():
        if ".mlp." in name:
            parameter.data *= 10
    return model


def stacked(moe):
    """The experts' weights as lists over E of one long vector each, layer by layer."""
    return [
        [weight.detach().flatten() for weight in getattr(layer.mlp.experts, name)]
        for layer in moe.model.layers
        for name in EXPERT_WEIGHTS
    ]


@pytest.mark.parametrize(("family", "changes"), DENSE.values(), ids=DENSE.keys())
@pytest.mark.parametrize("settings", [{}, {"experts": 3, "top_k": 1}, {"top_k": 4, "permute": True}], ids=str)
def test_the_function_is_preserved(family, changes, settings):
    dense = tiny(family, **changes)
    moe = upcycle(dense, UpcycleSection(**settings))
    assert isinstance(moe, MixtralForCausalLM)
    assert not moe.training
    assert max_logit_difference(dense, moe, TOKENS) < 1e-5
    storages = [{p.untyped_storage().data_ptr() for p in model.parameters()} for model in (dense, moe)]
    assert storages[0].isdisjoint(storages[1])


def test_experts_are_copies_and_the_router_is_fresh():
    dense = tiny(initializer_range=0.05)
    moe = upcycle(dense, UpcycleSection(experts=5))
    for experts in stacked(moe):
        assert len(experts) == 5
        assert all(torch.equal(expert, experts[0]) for expert in experts)
    routers = torch.stack([layer.mlp.gate.weight for layer in moe.model.layers])
    assert routers.std().item() == pytest.approx(0.05, rel=0.2)
    assert not torch.equal(routers[0], routers[1])
    dense.config.initializer_range = 0.0
    assert upcycle(dense, UpcycleSection()).model.layers[0].mlp.gate.weight.std().item() == pytest.approx(0.02, rel=0.3)


def test_permuted_experts_differ_and_noise_reaches_every_one():
    dense = tiny()
    plain, permuted, noisy = (
        upcycle(dense, UpcycleSection(**settings)) for settings in ({}, {"permute": True}, {"noise": 0.5})
    )
    for before, shuffled, shaken in zip(stacked(plain), stacked(permuted), stacked(noisy), strict=True):
        assert len({tuple(expert.tolist()) for expert in shuffled}) == 4
        assert all(torch.equal(expert.sort().values, before[0].sort().values) for expert in shuffled)
        for expert in shaken:
            assert (expert - before[0]).std().item() == pytest.approx(0.5 * before[0].std().item(), rel=0.1)
    assert max_logit_difference(dense, noisy, TOKENS) > 1e-2
    for changed in (permuted, noisy):
        for old, new in zip(plain.model.layers, changed.model.layers, strict=True):
            assert torch.equal(old.mlp.gate.weight, new.mlp.gate.weight)


def test_the_seed_decides_and_the_global_generator_rests():
    dense, state = tiny(), torch.get_rng_state()
    first, same, other = (upcycle(dense, UpcycleSection(noise=0.1, permute=True, seed=seed)) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert max_logit_difference(first, same, TOKENS) == 0
    assert max_logit_difference(first, other, TOKENS) > 1e-3


def test_dtype_is_kept():
    moe = upcycle(tiny(dtype=torch.bfloat16), UpcycleSection(noise=0.1))
    assert {parameter.dtype for parameter in moe.parameters()} == {torch.bfloat16}


def test_parameters_are_counted_once():
    dense = tiny(tie_word_embeddings=True)
    block = sum(parameter.numel() for layer in dense.model.layers for parameter in layer.mlp.parameters())
    rest = sum(parameter.numel() for parameter in dense.parameters()) - block + 2 * 6 * 32
    moe = upcycle(dense, UpcycleSection(experts=6, top_k=2))
    assert (moe.num_parameters(), activated_base_parameters(moe)) == (rest + 6 * block, rest + 2 * block)


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("gpt2", {"n_embd": 32, "n_layer": 1, "n_head": 2}, "'gpt2' model cannot be upcycled. Supported: llama"),
        ("mixtral", {"num_local_experts": 2}, "'mixtral' model is a mixture of experts already"),
        ("llama", {"attention_bias": True}, "has biases"),
        ("llama", {"mlp_bias": True}, "has biases"),
    ],
)
def test_other_models_are_refused(family, changes, message, tmp_path):
    model = tiny(family, **changes)
    with pytest.raises(TopicLoraError, match=message):
        upcycle(model, UpcycleSection())
    model.save_pretrained(tmp_path / "dense")
    with pytest.raises(TopicLoraError, match=message):
        upcycle_to(str(tmp_path / "dense"), tmp_path / "moe", UpcycleSection())
    assert not (tmp_path / "moe").exists()


def test_a_folder_below_a_file_is_refused_at_once(tiny_model_dir, run_cli, tmp_path):
    (tmp_path / "file").touch()
    code, text = run_cli("upcycle", tiny_model_dir, "file/moe")
    assert code == 2
    assert "file is a file" in text


def test_only_causal_language_models():
    with pytest.raises(TopicLoraError, match="LlamaModel is no causal language model"):
        upcycle(tiny().model, UpcycleSection())


def test_command_line_writes_an_ordinary_checkpoint(tiny_model_dir, run_cli, tmp_path):
    dense_dir = shutil.copytree(tiny_model_dir, tmp_path / "dense")
    generation = {**json.loads((dense_dir / "generation_config.json").read_text()), "max_new_tokens": 7}
    (dense_dir / "generation_config.json").write_text(json.dumps(generation))
    code, text = run_cli("upcycle", dense_dir, "moe", "--experts", 3, "--top-k", 1, "--permute")
    assert code == 0, text
    dense = AutoModelForCausalLM.from_pretrained(dense_dir)
    moe = AutoModelForCausalLM.from_pretrained(tmp_path / "moe")
    total, activated = moe.num_parameters(), activated_base_parameters(moe)
    [line] = [line for line in text.splitlines() if "logit" in line]
    assert line.startswith(f"moe: {total:,} parameters, {activated:,} activated per token; largest logit difference")
    assert isinstance(moe, MixtralForCausalLM)
    assert max_logit_difference(dense, moe, TOKENS) < 1e-5
    assert moe.generation_config.max_new_tokens == 7
    ids = [AutoTokenizer.from_pretrained(f)("Calculate 3 + 4.")["input_ids"] for f in (dense_dir, tmp_path / "moe")]
    assert ids[0] == ids[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense", "moe"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--top-k", 5], "top_k (5) cannot exceed experts (4)"),
        (["--experts", 1, "--top-k", 1], "model.upcycle.experts: Input should be greater than or equal to 2"),
        (["--noise", -0.1], "model.upcycle.noise: Input should be greater than or equal to 0"),
        (["--noise", "nan"], "model.upcycle.noise"),
    ],
)
def test_bad_settings_are_one_line(arguments, message, tiny_model_dir, run_cli):
    code, text = run_cli("upcycle", tiny_model_dir, "moe", *arguments)
    assert (code, message in text, len(text.splitlines())) == (2, True, 1), text


def test_bad_paths_are_one_line(tiny_model_dir, run_cli, tmp_path):
    (tmp_path / "there").mkdir()
    code, text = run_cli("upcycle", tiny_model_dir, "there")
    assert (code, text) == (2, "error: there exists already. Name another folder.\n")
    code, text = run_cli("upcycle", "/no/such/model", "moe")
    assert (code, "Cannot load the model '/no/such/model'" in text) == (2, True), text


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """A cache of the test's own; what lies in it, by name."""
    monkeypatch.setenv("TOPICLORA_CACHE", str(tmp_path / "cache"))
    return lambda: sorted(path.name for path in (tmp_path / "cache" / "models").iterdir() if path.is_dir())


def test_a_base_is_upcycled_once(tiny_model_dir, cache, monkeypatch, tmp_path):
    dense_dir = shutil.copytree(tiny_model_dir, tmp_path / "dense")
    settings = UpcycleSection(experts=3)
    first = load_base(str(dense_dir), upcycle=settings)
    assert isinstance(first.model, MixtralForCausalLM)
    assert not any(parameter.requires_grad for parameter in first.model.parameters())
    assert max_logit_difference(load_base(str(dense_dir)).model, first.model, TOKENS) < 1e-5
    assert cache() == [os.path.basename(first.source)]
    with monkeypatch.context() as patch:
        patch.setattr(models, "write_upcycled", lambda *_: pytest.fail("upcycled again"))
        assert load_base(str(dense_dir), upcycle=settings).source == first.source
    load_base(str(dense_dir), upcycle=settings.model_copy(update={"seed": 1}))
    assert len(cache()) == 2
    os.utime(dense_dir / "model.safetensors", (1, 1))
    load_base(str(dense_dir), upcycle=settings)
    assert len(cache()) == 3


def test_a_refused_base_leaves_the_cache_empty(cache, tmp_path):
    tiny(attention_bias=True).save_pretrained(tmp_path / "dense")
    with pytest.raises(TopicLoraError, match="has biases"):
        load_base(str(tmp_path / "dense"), upcycle=UpcycleSection())
    assert cache() == []


def test_a_recipe_trains_evaluates_and_exports_on_the_upcycled_base(tiny_recipe, cache, run_cli, tmp_path):
    values = yaml.safe_load(tiny_recipe.read_text())
    values["model"]["upcycle"] = {"experts": 3, "top_k": 2, "noise": 0.1}
    values["graph"]["encoder"] = "lm"
    values["adapter"]["target_modules"] = "all-linear"
    tiny_recipe.write_text(yaml.safe_dump(values))
    for arguments in (
        ["train", "--recipe", tiny_recipe, "--out", "r"],
        ["eval", "--run", "r"],
        ["merge", "--run", "r"],
    ):
        code, text = run_cli(*arguments)
        assert code == 0, text
    [made] = cache()
    adapter = json.loads((tmp_path / "r/adapter/adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == f"upcycled:{made}"
    for card in (tmp_path / "r").rglob("README.md"):
        assert str(tmp_path) not in card.read_text()
    assert "upcycle=UpcycleSection(experts=3, top_k=2, noise=0.1" in (tmp_path / "r/adapter/README.md").read_text()
    assert isinstance(AutoModelForCausalLM.from_pretrained(tmp_path / "r/merged/mean/dense"), MixtralForCausalLM)


def test_a_graph_is_tied_to_the_noise_of_its_encoder(tiny_recipe, cache):
    names = {}
    for noise in (None, 0.0, 0.1):
        changes = ["graph.encoder=lm", *([] if noise is None else [f"model.upcycle={{noise: {noise}}}"])]
        names[noise] = open_encoder(load_recipe(str(tiny_recipe), changes)).id
    assert names[None] == names[0.0] != names[0.1]
    assert "/" not in names[0.1]
