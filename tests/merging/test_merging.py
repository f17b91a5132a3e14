"""Fixed gates: the export equals the mixture exactly, and the gap says how far it is from the routed model."""

import subprocess
import sys
import weakref
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM

from tests.adapters.helpers import logits
from tests.conftest import shaken
from topiclora_cli.adapters import TopicLoraConfig, prompt_tokens
from topiclora_cli.adapters.targets import full_names, resolve_targets
from topiclora_cli.adapters.topiclora.layer import TopicLoraLayer
from topiclora_cli.adapters.topiclora.routing import Routing
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.merging import carry, gap
from topiclora_cli.merging.collapse import merge_into_base, plain_lora
from topiclora_cli.merging.gap import Reference

TOKENS = torch.tensor([[5, 9, 12, 7, 30], [4, 4, 21, 17, 6]])
NAMES = ["q_proj", "down_proj"]


def routed_model(base, **settings):
    torch.manual_seed(0)
    settings = {"target_modules": NAMES, "task_type": "CAUSAL_LM", **settings}
    model = get_peft_model(base, TopicLoraConfig(r=2, num_experts=4, **settings))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.3)
    return model.eval()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"init": "svd"},
        {"shared_a": True, "router": "linear"},
        {"use_rslora": True},
        {"scaling": "total", "top_k": 1},
        {"scaling": "total", "top_k": 2, "gate_weights": "constant"},
        {"ranks_per_layer": [1, 3]},
        {"router_scope": "layer"},
    ],
)
def test_export_equals_the_mixture_when_its_gates_are_those(settings, tiny_model, tiny_model_dir, monkeypatch):
    model = routed_model(tiny_model, **settings)
    gates = under_fixed_gates(model, monkeypatch, torch.tensor([0.4, 0.3, 0.2, 0.1]))
    other = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    lora = plain_lora(model, gates).onto(other)
    if "init" in settings:  # what the experts began with is a LoRA of its own
        assert lora.peft_config["default"].r == 2 * 4 * 2
    with torch.no_grad():
        expected = model(TOKENS).logits
        torch.testing.assert_close(lora(TOKENS).logits, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(lora.merge_and_unload()(TOKENS).logits, expected, atol=1e-5, rtol=1e-4)


def test_mixing_after_the_non_linearity_has_no_lora(tiny_model, tiny_model_dir):
    names = ["gate_proj", "up_proj", "down_proj"]
    config = TopicLoraConfig(r=2, num_experts=4, target_modules=names, mixing="ffn", router_scope="block")
    model = get_peft_model(tiny_model, config)
    gates = {m.name: torch.full((4,), 0.25) for m in model.modules() if isinstance(m, TopicLoraLayer)}
    with pytest.raises(TopicLoraError, match="mixing: ffn"):
        plain_lora(model, gates).onto(AutoModelForCausalLM.from_pretrained(tiny_model_dir))


def test_missing_gates_and_other_adapters_are_refused(tiny_model, tiny_model_dir):
    model = routed_model(tiny_model)
    other = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    with pytest.raises(TopicLoraError, match="No gates for"):
        plain_lora(model, {}).onto(other)
    plain = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model_dir), LoraConfig(target_modules=NAMES))
    with pytest.raises(TopicLoraError, match="no mixture"):
        plain_lora(plain, {}).onto(other)


class Fixed(nn.Module):
    """A model whose next-token log-probabilities are given, whatever it reads."""

    def __init__(self, log_probabilities):
        super().__init__()
        self.log_probabilities = log_probabilities

    def forward(self, input_ids, **_):
        rows = self.log_probabilities[input_ids[:, 0]]  # (B, V): a row's first token says which
        return SimpleNamespace(logits=rows[:, None].expand(-1, input_ids.shape[1], -1).clone())


def batch_of(*firsts):
    ids = torch.tensor([[first, 0] for first in firsts])
    labels = torch.tensor([[-100, 0]] * len(firsts))
    return {"input_ids": ids, "attention_mask": ids, "position_ids": ids, "labels": labels}


def gap_of(p, q, batches, folder):
    return Reference(batches, folder).write(Fixed(p)).compare(Fixed(q)).gap()


def test_gap_by_hand(tmp_path):
    p = torch.tensor([[0.5, 0.5], [0.9, 0.1]]).log()
    q = torch.tensor([[0.5, 0.5], [0.4, 0.6]]).log()
    assert gap_of(p, p, [batch_of(0, 1)], tmp_path).kl == pytest.approx(0, abs=1e-7)
    for seed in range(20):
        near = p + 1e-6 * torch.randn(p.shape, generator=torch.Generator().manual_seed(seed))
        assert gap_of(p, near, [batch_of(0, 1)], tmp_path).kl >= 0
    expected = 0.9 * torch.tensor(0.9 / 0.4).log() + 0.1 * torch.tensor(0.1 / 0.6).log()
    for batches in ([batch_of(0, 1)], [batch_of(0), batch_of(1)]):
        gap = gap_of(p, q, batches, tmp_path)
        assert gap.kl == pytest.approx(expected.item() / 2, rel=1e-5)
        assert (gap.agreement, gap.tokens) == (0.5, 2)
        assert gap.perplexity == pytest.approx((0.5 * 0.4) ** -0.5, rel=1e-5)  # every label is the first token
    with pytest.raises(ValueError, match="no labelled token"):
        Reference([{**batch_of(0), "labels": torch.tensor([[-100, -100]])}], tmp_path).write(Fixed(p))


def test_a_gap_is_of_any_examples_alone(tmp_path):
    p, q = (torch.randn(4, 7, generator=torch.Generator().manual_seed(n)).log_softmax(-1) for n in range(2))
    reference = Reference([batch_of(0, 1, 2), batch_of(3)], tmp_path).write(Fixed(p))
    sums = reference.compare(Fixed(q))
    some = reference.compare(Fixed(q), [1, 3])
    assert sums.gap([1, 3]) == some.gap([1, 3]) == some.gap()
    assert sums.gap([0]) != sums.gap([1])
    other = reference.compare(Fixed(p)).taken(some, [1, 3])
    assert other.gap([1, 3]) == sums.gap([1, 3])
    assert other.gap([0, 2]).agreement == 1


def test_a_gap_holds_the_distributions_of_one_batch_alone(monkeypatch, tmp_path):
    made, most = [], []
    actual = gap.answer_log_probabilities

    def counting(*arguments, **settings):
        most.append(sum(reference() is not None for reference in made))
        result = actual(*arguments, **settings)
        made.append(weakref.ref(result))
        return result

    monkeypatch.setattr(gap, "answer_log_probabilities", counting)
    table = torch.randn(3, 5).log_softmax(-1)
    assert gap_of(table, table, [batch_of(0, 1, 2)] * 9, tmp_path).tokens == 27
    assert len(made) == 18
    assert max(most) == 1


def under_fixed_gates(model, monkeypatch, gates):
    """Has every mixture layer take these gates; returns them by layer."""

    def fixed(layer, adapter, x, projected=None):
        return Routing(gates.expand(*x.shape[:-1], len(gates)), len(gates), layer.topiclora_config[adapter].scale)

    monkeypatch.setattr(TopicLoraLayer, "route", fixed)
    return {m.name: gates for m in model.modules() if isinstance(m, TopicLoraLayer)}


def test_routing_by_prompt_is_compared_as_it_was_trained(tiny_model):
    """The prompt ends where the batch says, not where the answer does."""
    model = routed_model(tiny_model, granularity="prompt", router="linear")
    labels = torch.where(torch.arange(5) < 3, -100, TOKENS)
    prompt = (torch.arange(5) < 3).long().expand(2, -1)
    ones, positions = torch.ones_like(TOKENS), torch.arange(5).expand(2, -1)
    batch = {"input_ids": TOKENS, "attention_mask": ones, "position_ids": positions, "labels": labels}
    with torch.no_grad(), prompt_tokens(prompt):
        expected = model(TOKENS).logits[:, 2:4].flatten(0, 1).log_softmax(-1)
    with torch.no_grad():
        answered = gap.answer_log_probabilities(model, {**batch, "prompt_mask": prompt})
        without = gap.answer_log_probabilities(model, batch)
    torch.testing.assert_close(answered, expected)
    assert not torch.allclose(without, expected, atol=1e-4)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("settings", [{"modules_to_save": ["lm_head"]}, {"modules_to_save": ["norm"]},
                                      {"target_modules": ["q_proj", "lm_head"]}], ids=str)  # fmt: skip
def test_whole_modules_and_an_adapted_head_are_carried(settings, tied, family_model, tmp_path, monkeypatch):
    model = routed_model(family_model("llama", tie_word_embeddings=tied), **settings)
    gates = under_fixed_gates(model, monkeypatch, torch.tensor([0.4, 0.3, 0.2, 0.1]))
    expected = logits(model)
    lora = plain_lora(model, gates).onto(family_model("llama", tie_word_embeddings=tied))
    torch.testing.assert_close(logits(lora), expected, atol=1e-5, rtol=0)
    lora.save_pretrained(tmp_path / "lora")
    again = PeftModel.from_pretrained(family_model("llama", tie_word_embeddings=tied), tmp_path / "lora")
    torch.testing.assert_close(logits(again), expected, atol=1e-5, rtol=0)
    merge_into_base(lora).save_pretrained(tmp_path / "dense")
    dense = AutoModelForCausalLM.from_pretrained(tmp_path / "dense").eval()
    torch.testing.assert_close(logits(dense), expected, atol=1e-5, rtol=0)
    assert dense.config.tie_word_embeddings == (tied and settings.get("modules_to_save") == ["norm"])


@pytest.mark.parametrize("family", ["qwen2_moe", "qwen3_next", "deepseek_v2", "deepseek_v3", "glm4_moe", "ernie4_5_moe",
                                    "granitemoehybrid", "jamba", "opt"])  # fmt: skip
def test_sparse_and_hybrid_bases_export(family, family_model, tmp_path, monkeypatch):
    base = family_model(family)
    names = full_names(base, resolve_targets(base, "all-linear"))
    model = routed_model(base, target_modules=names, ranks_per_layer=[1, 3])
    gates = under_fixed_gates(model, monkeypatch, torch.tensor([0.4, 0.3, 0.2, 0.1]))
    assert set(gates) == set(names)
    expected = logits(model)
    lora = plain_lora(model, gates).onto(family_model(family))
    torch.testing.assert_close(logits(lora), expected, atol=1e-5, rtol=1e-5)
    lora.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(family_model(family), tmp_path).eval()
    torch.testing.assert_close(logits(again), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits(merge_into_base(lora)), expected, atol=1e-5, rtol=1e-5)


def test_layers_that_peft_refuses_are_named(family_model, monkeypatch):
    model = routed_model(family_model("mamba2"), target_modules=["out_proj"])
    gates = under_fixed_gates(model, monkeypatch, torch.full((4,), 0.25))
    with pytest.raises(TopicLoraError, match=r"No stock LoRA adapts these layers: .*out_proj"):
        plain_lora(model, gates).onto(family_model("mamba2"))


def test_trained_tokens_are_carried(tiny_model, tiny_model_dir, tmp_path, monkeypatch):
    config = TopicLoraConfig(r=2, num_experts=4, target_modules=NAMES, task_type="CAUSAL_LM")
    config.trainable_token_indices = [9, 30]  # as TRL sets it
    model = shaken(get_peft_model(tiny_model, config))
    gates = under_fixed_gates(model, monkeypatch, torch.tensor([0.4, 0.3, 0.2, 0.1]))
    expected = logits(model, TOKENS)
    lora = plain_lora(model, gates).onto(AutoModelForCausalLM.from_pretrained(tiny_model_dir))
    torch.testing.assert_close(logits(lora, TOKENS), expected, atol=1e-5, rtol=1e-5)
    lora.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model_dir), tmp_path)
    torch.testing.assert_close(logits(again, TOKENS), expected, atol=1e-5, rtol=1e-5)


def test_what_no_lora_can_carry_is_refused(tiny_model, tiny_model_dir, monkeypatch):
    model = routed_model(tiny_model)
    gates = under_fixed_gates(model, monkeypatch, torch.full((4,), 0.25))
    monkeypatch.setattr(carry, "get_peft_model_state_dict", lambda *_, **__: {"base_model.model.q_proj.bias": None})
    with pytest.raises(TopicLoraError, match=r"cannot carry base_model\.model\.q_proj\.bias"):
        plain_lora(model, gates).onto(AutoModelForCausalLM.from_pretrained(tiny_model_dir))


def test_experts_that_share_a_export_at_their_own_rank(tiny_model, tiny_model_dir):
    model = routed_model(tiny_model, shared_a=True, router="linear")
    gates = {m.name: torch.full((4,), 0.25) for m in model.modules() if isinstance(m, TopicLoraLayer)}
    lora = plain_lora(model, gates).onto(AutoModelForCausalLM.from_pretrained(tiny_model_dir))
    assert lora.peft_config["default"].r == 2
    assert not lora.peft_config["default"].rank_pattern


def test_a_process_that_knows_peft_alone_gets_the_same_function(tiny_model, tiny_model_dir, tmp_path, monkeypatch):
    model = routed_model(tiny_model, modules_to_save=["lm_head"])
    gates = under_fixed_gates(model, monkeypatch, torch.tensor([0.4, 0.3, 0.2, 0.1]))
    expected = logits(model, TOKENS)
    plain_lora(model, gates).onto(AutoModelForCausalLM.from_pretrained(tiny_model_dir)).save_pretrained(tmp_path)
    code = (
        "import sys, torch\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n"
        f"model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({str(tiny_model_dir)!r}), "
        f"{str(tmp_path)!r})\nassert not any(name.startswith('topiclora') for name in sys.modules)\n"
        f"torch.save(model.eval()(torch.tensor({TOKENS.tolist()})).logits.detach(), {str(tmp_path / 'logits')!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(torch.load(tmp_path / "logits"), expected, atol=1e-5, rtol=0)
