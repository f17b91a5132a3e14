"""An expert more or one fewer in an adapter's files: who does not choose it computes what it did."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from peft import PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.adapters.helpers import TOKENS, logits
from tests.conftest import shaken
from topiclora_cli.adapters import TopicLoraConfig, record_routing
from topiclora_cli.adapters.grow import with_expert, without_expert
from topiclora_cli.errors import TopicLoraError

E, WIDTH = 4, 12
VECTORS = F.normalize(torch.randn(E + 1, WIDTH, generator=torch.Generator().manual_seed(0)), dim=1)
FILE = "adapter_model.safetensors"
SETTINGS = {"r": 2, "num_experts": E, "top_k": 2, "target_modules": ["q_proj", "k_proj", "down_proj"]}
VARIANTS = {
    "plain": {},
    "one A for all": {"shared_a": True},
    "experts for every token": {"shared_experts": 2},
    "a router for several layers": {"router_scope": "block"},
    "keys that train": {"train_keys": True},
    "routing by prompt": {"granularity": "prompt"},
    "constant gates": {"gate_weights": "constant"},
    "a plain LoRA beside": {"plain_modules": ["k_proj"]},
    "mixed within blocks": {
        "mixing": "ffn",
        "router_scope": "block",
        "target_modules": ["gate_proj", "up_proj", "down_proj"],
    },
}


def saved(model, folder):
    model.save_pretrained(folder)
    return load_file(folder / FILE), PeftConfig.from_pretrained(str(folder))


def loaded(tensors, config, folder, base):
    folder.mkdir()
    save_file(dict(tensors), folder / FILE, metadata={"format": "pt"})
    config.save_pretrained(str(folder))
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval()


@pytest.fixture
def trained(tiny_model):
    def make(**changes):
        config = TopicLoraConfig(**{**SETTINGS, "anchors": VECTORS[:-1].tolist(), **changes})
        return shaken(get_peft_model(tiny_model, config))

    return make


def biased(tensors, expert, bias):
    for name, tensor in tensors.items():
        if name.endswith("router.bias"):
            tensor[expert] = bias
    return tensors


def gates_of(model):
    with record_routing(model) as record:
        out = logits(model)
    return out, record.gates


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_where_nobody_chooses_the_new_expert_outputs_are_those_of_before_to_the_bit(
    changes, trained, tiny_model_dir, tmp_path
):
    model = trained(**changes)
    before, old_gates = gates_of(model)
    tensors, config = with_expert(*saved(model, tmp_path / "old"), VECTORS)
    assert (config.num_experts, config.key_width, config.first_experts) == (E + 1, E + 1, E)
    after, gates = gates_of(loaded(biased(tensors, E, -1e4), config, tmp_path / "new", tiny_model_dir))
    for name, old in old_gates.items():
        assert torch.equal(gates[name][..., : old.shape[-1]], old)
    assert torch.equal(after, before)


def test_where_gates_are_one_softmax_with_shared_experts_it_rounds_anew(trained, tiny_model_dir, tmp_path):
    model = trained(shared_experts=1, shared_gate="softmax")
    before = logits(model)
    tensors, config = with_expert(*saved(model, tmp_path / "old"), VECTORS)
    after = logits(loaded(biased(tensors, E, -1e4), config, tmp_path / "new", tiny_model_dir))
    torch.testing.assert_close(after, before, atol=1e-6, rtol=1e-5)


def test_where_some_choose_it_the_others_keep_their_gates(trained, tiny_model_dir, tmp_path):
    model = trained(target_modules=["q_proj"], layers_to_transform=[0])
    old = next(iter(gates_of(model)[1].values()))
    tensors, config = with_expert(*saved(model, tmp_path / "old"), VECTORS)
    new = next(iter(gates_of(loaded(tensors, config, tmp_path / "new", tiny_model_dir))[1].values()))
    chosen = new[..., E] > 0
    assert 0 < chosen.sum() < chosen.numel()
    assert torch.equal(new[..., :E][~chosen], old[~chosen])


def test_a_fresh_expert_adds_nothing_of_its_own(trained, tiny_model_dir, tmp_path):
    tensors, _ = with_expert(*saved(trained(), tmp_path / "old"), VECTORS)
    for name, tensor in tensors.items():
        if "topiclora_B" in name:
            assert not tensor[E].any()
        if "topiclora_A" in name:
            assert tensor[E].any()


def test_keys_keep_the_inner_products_of_the_expert_vectors(trained, tmp_path):
    tensors, config = with_expert(*saved(trained(), tmp_path / "old"), VECTORS)
    more = F.normalize(torch.cat([VECTORS, torch.randn(1, WIDTH)]), dim=1)
    twice, _ = with_expert(tensors, config, more)
    keys = next(tensor for name, tensor in twice.items() if name.endswith("keys"))
    torch.testing.assert_close(keys @ keys.T, more @ more.T, atol=1e-5, rtol=0)


@pytest.mark.parametrize("changes", [{}, {"shared_a": True}, {"shared_experts": 2}, {"train_keys": True}])
@pytest.mark.parametrize("gone", [0, E - 1])
def test_without_an_expert_that_nobody_chose_outputs_are_those_of_before(
    changes, gone, trained, tiny_model_dir, tmp_path
):
    tensors, config = saved(trained(**changes), tmp_path / "old")
    biased(tensors, gone, -1e4)
    before = logits(loaded(tensors, config, tmp_path / "idle", tiny_model_dir))
    smaller = without_expert(tensors, config, gone)
    after, gates = gates_of(loaded(*smaller, tmp_path / "new", tiny_model_dir))
    torch.testing.assert_close(after, before, atol=1e-6, rtol=1e-5)  # smaller products add up in another order
    assert {gate.shape[-1] for gate in gates.values()} == {E - 1}


def test_what_came_and_went_leaves_what_there_was(trained, tiny_model_dir, tmp_path):
    model = trained()
    before = logits(model)
    back = without_expert(*with_expert(*saved(model, tmp_path / "old"), VECTORS), E)
    torch.testing.assert_close(logits(loaded(*back, tmp_path / "new", tiny_model_dir)), before, atol=1e-6, rtol=1e-5)
    again, config = with_expert(*back, VECTORS)
    assert config.num_experts == E + 1
    assert logits(loaded(again, config, tmp_path / "again", tiny_model_dir), TOKENS).isfinite().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"router": "linear"}, "no keys from the topic graph"),
        ({"top_k": None}, "no top_k gates are shares of all experts"),
        ({"top_k": None, "top_p": 0.5}, "top_p: 0.5 gates are shares"),
        ({"top_k": 1}, "top_k: 1 a gate is a share"),
        ({"gate_weights": "probability"}, "gate_weights: probability a gate is a share"),
        ({"experts_per_layer": [4, 4]}, "their own numbers of experts"),
        ({"init": "svd"}, "init: svd"),
    ],
)
def test_mixtures_in_which_a_newcomer_would_change_the_others_are_refused(changes, message):
    config = replace(TopicLoraConfig(**SETTINGS), **changes)
    with pytest.raises(TopicLoraError, match=message):
        with_expert({}, config, VECTORS)


def test_no_fewer_experts_than_each_token_takes_are_left():
    with pytest.raises(TopicLoraError, match="3 experts would be left, and each token takes 4"):
        without_expert({}, TopicLoraConfig(**{**SETTINGS, "top_k": 4}), 0)
