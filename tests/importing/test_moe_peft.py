"""MoE-PEFT's MoLA, LoRAMoE and MixLoRA, the package mixlora and its first version, against their own blocks."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import Phi3ForCausalLM, PhiForCausalLM, Qwen2ForCausalLM

from tests.conftest import SMALL
from tests.importing.helpers import bring, draw, linears, logits, put, save, served
from topiclora_cli.errors import TopicLoraError

R, ALPHA, E = 4, 8, 4
ATTENTION, FEED_FORWARD = ("q_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
FIRST_NAMES = {"gate_proj": "w1_proj", "down_proj": "w2_proj", "up_proj": "w3_proj"}


class Lora:
    """A pair of matrices as MoE-PEFT's Lora scales them."""

    def __init__(self, base, *, rank=R, alpha=ALPHA, rslora=False):
        self.a, self.b = draw(rank, base.in_features), draw(base.out_features, rank)
        self.scaling = alpha / (rank**0.5 if rslora else rank)

    def __call__(self, x):
        return (x @ self.a.T @ self.b.T) * self.scaling

    def saved(self, name):
        return {f"{name}.lora_A.weight": self.a, f"{name}.lora_B.weight": self.b}


class Plain(nn.Module):
    """A layer with a LoRA of its own and no experts."""

    def __init__(self, base, **lora):
        super().__init__()
        self.base, self.lora = base, Lora(base, **lora)

    def forward(self, x):
        return self.base(x) + self.lora(x)

    def saved(self, name):
        return self.lora.saved(name)


class Plugged(nn.Module):
    """MolaSparseMoe with top_k, LoraMoe without: a gate and experts on one layer."""

    def __init__(self, base, *, top_k=None, **lora):
        super().__init__()
        self.base, self.top_k = base, top_k
        self.gate, self.experts = draw(E, base.in_features), [Lora(base, **lora) for _ in range(E)]

    def forward(self, x):
        result, weights = self.base(x), F.softmax(x @ self.gate.T, dim=-1)
        if self.top_k is not None:
            kept, chosen = weights.topk(self.top_k, dim=-1)
            weights = torch.zeros_like(weights).scatter(-1, chosen, kept / kept.sum(-1, keepdim=True))
        for e, expert in enumerate(self.experts):
            result = result + weights[..., e, None] * expert(x)
        return result

    def saved(self, name):
        experts = [expert.saved(f"{name}.experts.{e}") for e, expert in enumerate(self.experts)]
        return {f"{name}.moe_gate.weight": self.gate} | {key: v for each in experts for key, v in each.items()}


class Block(nn.Module):
    """MixLoraSparseMoe around a block: whole experts, of which some projections may have no LoRA."""

    def __init__(self, mlp, *, top_k, adapted=FEED_FORWARD, **lora):
        super().__init__()
        self.mlp, self.top_k, self.gate = mlp, top_k, draw(E, getattr(mlp, adapted[0]).in_features)
        self.experts = [{name: Lora(getattr(mlp, name), **lora) for name in adapted} for _ in range(E)]

    def forward(self, x):
        flat = x.flatten(0, -2)
        weights, chosen = F.softmax(flat @ self.gate.T, dim=1).topk(self.top_k, dim=-1)
        weights = weights / weights.sum(-1, keepdim=True)
        final = torch.zeros_like(flat)
        for token, row in enumerate(flat):
            for weight, e in zip(weights[token], chosen[token].tolist(), strict=True):
                final[token] += weight * self.expert(self.experts[e], row)
        return final.view(x.shape)

    def expert(self, loras, x):
        def projected(name, value):
            result = getattr(self.mlp, name)(value)
            return result + loras[name](value) if name in loras else result

        if "fc1" in loras:
            return projected("fc2", self.mlp.activation_fn(projected("fc1", x)))
        if "gate_up_proj" in loras:
            gate, up = projected("gate_up_proj", x).chunk(2, dim=-1)
            return projected("down_proj", up * F.silu(gate))
        return projected("down_proj", F.silu(projected("gate_proj", x)) * projected("up_proj", x))

    def saved(self, layer, *, first=False):
        tensors = {f"{layer}.gate.weight" if first else f"{layer}.mlp.moe_gate.weight": self.gate}
        for e, loras in enumerate(self.experts):
            for name, lora in loras.items():
                now = f"{layer}.mlp.{name}.experts.{e}"
                tensors |= lora.saved(f"{layer}.experts.{e}.{FIRST_NAMES[name]}" if first else now)
        return tensors


def settings(base, kind, **others):
    own = {"bias": "none", "peft_type": kind.upper(), "r": R, "lora_alpha": ALPHA, "lora_dropout": 0.05}
    return {
        **own,
        "target_modules": [*ATTENTION, *FEED_FORWARD],
        "routing_strategy": kind,
        "num_experts": E,
        "base_model_name_or_path": str(base),
        "task_type": "CAUSAL_LM",
        **others,
    }


def plugged(model, kind, names, **options):
    """Puts a mixture on each of the named layers; returns what MoE-PEFT saves of them."""
    tensors = {}
    for name, linear in linears(model, *names).items():
        put(model, name, layer := Plugged(linear, **options))
        tensors |= layer.saved(name.replace("model.", f"{kind}.", 1))
    return tensors


def plain(model, kind, names=ATTENTION, **lora):
    tensors = {}
    for name, linear in linears(model, *names).items():
        put(model, name, layer := Plain(linear, **lora))
        tensors |= layer.saved(name.replace("model.", f"{kind}.", 1))
    return tensors


def mixlora(model, *, first=False, attention=ATTENTION, **options):
    tensors = plain(model, "mixlora", attention)
    for number, layer in enumerate(model.model.layers):
        layer.mlp = Block(layer.mlp, **{"top_k": 2, **options})
        tensors |= layer.mlp.saved(f"mixlora.layers.{number}", first=first)
    return tensors


def assert_equal(tiny_model, base, out, atol=1e-5):
    torch.testing.assert_close(served(base, out), logits(tiny_model), atol=atol, rtol=0)


@pytest.mark.parametrize("rslora", [False, True])
def test_moe_peft_s_mola_gives_its_logits(rslora, tiny_model, tiny_model_dir, tmp_path):
    tensors = plugged(tiny_model, "mola", [*ATTENTION, *FEED_FORWARD], top_k=2, rslora=rslora)
    others = {"top_k": 2, **({"use_rslora": True} if rslora else {})}
    path = save(tmp_path / "m", tensors, settings(tiny_model_dir, "mola", **others))
    assert bring(path, tmp_path / "out").format == "moe-peft"
    assert_equal(tiny_model, tiny_model_dir, tmp_path / "out")


def test_moe_peft_s_loramoe_gives_its_logits(tiny_model, tiny_model_dir, tmp_path):
    tensors = plain(tiny_model, "loramoe") | plugged(tiny_model, "loramoe", FEED_FORWARD)
    bring(save(tmp_path / "m", tensors, settings(tiny_model_dir, "loramoe")), tmp_path / "out")
    assert_equal(tiny_model, tiny_model_dir, tmp_path / "out")


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("first", [False, True])
def test_mixlora_gives_its_logits(first, top_k, tiny_model, tiny_model_dir, tmp_path):
    tensors = mixlora(tiny_model, first=first, top_k=top_k)
    strategy = {"routing_strategy": "mixtral" if first else "mixlora", "top_k": top_k, "act_fn": "silu"}
    path = save(tmp_path / "m", tensors, settings(tiny_model_dir, "mixlora", **strategy))
    assert bring(path, tmp_path / "out", format_="moe-peft").format == "mixlora"
    assert_equal(tiny_model, tiny_model_dir, tmp_path / "out")


@pytest.mark.parametrize(
    ("kind", "attention", "adapted"),
    [
        (PhiForCausalLM, ("q_proj", "dense"), ("fc1", "fc2")),
        (Phi3ForCausalLM, ("qkv_proj", "o_proj"), ("gate_up_proj", "down_proj")),
        (Qwen2ForCausalLM, ATTENTION, FEED_FORWARD),
    ],
)
def test_mixlora_gives_its_logits_on_other_families(kind, attention, adapted, tmp_path):
    torch.manual_seed(0)
    kind(kind.config_class(**SMALL)).save_pretrained(tmp_path / "base")
    model = kind.from_pretrained(tmp_path / "base").eval()
    path = save(
        tmp_path / "m",
        mixlora(model, adapted=adapted, attention=attention),
        settings(tmp_path / "base", "mixlora", top_k=2, act_fn=model.config.hidden_act),
    )
    bring(path, tmp_path / "out")
    assert_equal(model, tmp_path / "base", tmp_path / "out")


def test_experts_of_another_rank_and_scale_are_filled_up_and_their_scale_is_kept(tiny_model, tiny_model_dir, tmp_path):
    tensors = mixlora(tiny_model, rank=6, alpha=30, rslora=True)
    expert = {"r": 6, "lora_alpha": 30, "use_rslora": True, "lora_dropout": 0.05, "bias": "none"}
    others = {"top_k": 2, "expert_lora": expert}
    bring(save(tmp_path / "m", tensors, settings(tiny_model_dir, "mixlora", **others)), tmp_path / "out")
    assert_equal(tiny_model, tiny_model_dir, tmp_path / "out")


def test_a_projection_that_was_left_out_gets_experts_that_add_nothing(tiny_model, tiny_model_dir, tmp_path):
    tensors = mixlora(tiny_model, adapted=("gate_proj", "down_proj"))
    bring(save(tmp_path / "m", tensors, settings(tiny_model_dir, "mixlora", top_k=2)), tmp_path / "out")
    assert_equal(tiny_model, tiny_model_dir, tmp_path / "out")


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"routing_strategy": "mixlora-dynamic", "top_p": 0.8}, "mixlora-dynamic.*do not sum to one"),
        ({"routing_strategy": "mixlora-switch"}, "mixlora-switch.*beyond an expert's capacity"),
        ({"use_dora": True}, "DoRA"),
        ({"expert_lora": {"use_dora": True}}, "DoRA"),
        ({"act_fn": "gelu_new"}, "act_fn gelu_new"),
        ({"num_experts": 5}, "lacks mixlora.*experts.4"),
        ({"num_experts": 3}, "configuration says 3 experts"),
    ],
)
def test_what_no_adapter_can_be_is_refused_with_the_reason(others, message, tiny_model, tiny_model_dir, tmp_path):
    tensors = mixlora(tiny_model)
    path = save(tmp_path / "m", tensors, settings(tiny_model_dir, "mixlora", **{"top_k": 2, **others}))
    with pytest.raises(TopicLoraError, match=message):
        bring(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_a_left_out_projection_looks_like_is_the_base_s_to_say(tiny_model, tmp_path):
    tensors = mixlora(tiny_model, adapted=("gate_proj", "down_proj"))
    path = save(tmp_path / "m", tensors, settings("nobody/nothing", "mixlora", top_k=2))
    with pytest.raises(TopicLoraError, match="may leave out a projection"):
        bring(path, tmp_path / "out")


def test_without_its_base_a_checkpoint_is_imported_unchecked_and_says_so(tiny_model, tiny_model_dir, tmp_path):
    said = []
    path = save(tmp_path / "m", mixlora(tiny_model), settings("nobody/nothing", "mixlora", top_k=2))
    bring(path, tmp_path / "out", type("Told", (), {"say": staticmethod(said.append)})())
    assert "not checked against its base" in said[-1]
    assert (
        json.loads((tmp_path / "out" / "adapter_config.json").read_text())["base_model_name_or_path"]
        == "nobody/nothing"
    )
    assert_equal(tiny_model, tiny_model_dir, tmp_path / "out")
