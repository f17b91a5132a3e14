"""Roles become names, names are checked, parameters are counted, budgets read."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, OlmoeConfig, OlmoeForCausalLM

from tests.conftest import SHAPE
from topiclora_cli.adapters import TopicLoraConfig
from topiclora_cli.adapters.counting import (
    adapted_modules,
    count_on,
    count_parameters,
    empty_copy,
    parse_budget,
)
from topiclora_cli.adapters.presets import by_depth, make_config
from topiclora_cli.adapters.targets import resolve_targets
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe.adapter import XloraSection

SMOLLM2 = {
    "vocab_size": 64,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}


@pytest.fixture(scope="module")
def smollm2():
    """SmolLM2-135M's shapes without storage."""
    with torch.device("meta"):
        return LlamaForCausalLM(LlamaConfig(**SMOLLM2))


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("attention", ["k_proj", "o_proj", "q_proj", "v_proj"]),
        ("feed-forward", ["down_proj", "gate_proj", "up_proj"]),
        ("outputs", ["down_proj", "o_proj"]),
        ("all-linear", ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]),
        (["q_proj", "mlp.up_proj"], ["q_proj", "mlp.up_proj"]),
        (r".*\.1\..*q_proj", r".*\.1\..*q_proj"),
    ],
)
def test_roles_become_names(wanted, expected, tiny_model):
    assert resolve_targets(tiny_model, wanted) == expected


def test_names_that_occur_in_both_blocks_are_told_apart():
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=9))
    assert resolve_targets(model, "feed-forward") == ["c_fc", "mlp.c_proj"]
    assert resolve_targets(model, "attention") == ["attn.c_proj", "c_attn"]


def test_a_sparse_bases_routers_are_never_targets():
    with torch.device("meta"):
        model = OlmoeForCausalLM(
            OlmoeConfig(vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
        )
    assert resolve_targets(model, "all-linear") == ["k_proj", "o_proj", "q_proj", "v_proj"]


@pytest.mark.parametrize("wanted", [["q_proj", "q_porj"], "q_porj", ["gate_proj2"]])
def test_a_name_that_matches_nothing_is_an_error(wanted, tiny_model):
    with pytest.raises(TopicLoraError, match=r"matches nothing in the model\. .*Its linear layers: down_proj"):
        resolve_targets(tiny_model, wanted)


def test_numbers_spread_over_layers():
    assert by_depth([2, 4, 6, 8], 8) == [2, 2, 4, 4, 6, 6, 8, 8]
    assert by_depth([2, 4], 5) == [2, 2, 2, 4, 4]
    assert by_depth([1, 2, 3], 3) == [1, 2, 3]
    assert by_depth(None, 3) is None


def test_counts_by_hand(tiny_model):
    config = TopicLoraConfig(
        r=2, num_experts=4, top_k=2, router="linear", router_scope="layer", target_modules=["q_proj", "down_proj"]
    )
    model = get_peft_model(tiny_model, config)
    experts = 4 * 2 * (32 + 32) + 4 * 2 * (48 + 32)
    assert count_parameters(model) == (2 * (experts + 4 * 32), 2 * (experts // 2 + 4 * 32))
    rows = {row.name: row for row in adapted_modules(model)}
    assert rows["self_attn.q_proj"].parameters == 2 * (4 * 2 * 64 + 4 * 32)
    assert (rows["mlp.down_proj"].count, rows["mlp.down_proj"].shape) == (2, "48 -> 32")
    assert (rows["mlp.down_proj"].experts, rows["mlp.down_proj"].rank) == ("4", "2")


def test_counting_leaves_the_model_alone(tiny_model):
    before = {name: parameter.clone() for name, parameter in tiny_model.named_parameters()}
    assert all(parameter.is_meta for parameter in empty_copy(tiny_model).parameters())
    count_on(tiny_model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    assert before.keys() == dict(tiny_model.named_parameters()).keys()
    assert all(torch.equal(before[name], parameter) for name, parameter in tiny_model.named_parameters())


def test_a_share_is_of_the_bases_parameters_in_all_or_per_token(smollm2):
    assert parse_budget("total=4.2M", smollm2) == ("total", 4_200_000)
    assert parse_budget("total=0.5%", smollm2) == ("total", round(0.005 * sum(p.numel() for p in smollm2.parameters())))
    with torch.device("meta"):
        sparse = OlmoeForCausalLM(OlmoeConfig(num_experts=4, num_experts_per_tok=2, vocab_size=64, **SHAPE))
    in_all, per_token = (parse_budget(f"{kind}=10%", sparse)[1] for kind in ("total", "activated"))
    experts = SHAPE["num_hidden_layers"] * 4 * 3 * SHAPE["hidden_size"] * SHAPE["intermediate_size"]
    assert in_all - per_token == pytest.approx(0.1 * experts / 2, abs=1)


def test_xlora_gets_the_adapters_to_mix(tiny_model_dir):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    settings = XloraSection(method="xlora", init_from=["a", "b"]).model_dump()
    config = make_config("xlora", settings, model)
    assert config.adapters == {"0": "a", "1": "b"}
    assert model.config.use_cache is False
