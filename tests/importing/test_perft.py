"""PERFT against its authors' blocks of OLMoE and Mixtral, all variants with both kinds of adapter."""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM

from tests.conftest import TINY
from tests.importing.helpers import bring, draw, logits, served
from topiclora_cli.errors import TopicLoraError

R, ALPHA, HIDDEN = 4, 12, 32
LORA = ("LoRA", {"r": R, "lora_alpha": ALPHA, "lora_dropout": 0.05})
PARALLEL = ("Parallel_Adapter", {"hidden_dim": R, "hidden_act": "silu", "dropout": 0.05})
SWITCHES = {
    "shared": {"shared_adapter": True, "shared_adapter_num": 1},
    "dense": {"shared_adapter": True, "shared_adapter_num": 3},
    "embedded": {"embedded_routing_adapter": True},
    "routed": {
        "shared_routing_adapter": True,
        "shared_routing_adapter_num_experts": 4,
        "shared_routing_adapter_num_experts_per_tok": 2,
    },
}
STEMS = {"routed": "shared_routing_adapter", "embedded": "embedded_routing_adapter"}


@pytest.fixture(scope="module")
def tiny_mixtral_dir(tiny_model_dir, tmp_path_factory):
    """A two-layer random Mixtral, top-2 of 4 experts."""
    folder = tmp_path_factory.mktemp("mixtral")
    torch.manual_seed(0)
    config = MixtralConfig(vocab_size=64, num_local_experts=4, num_experts_per_tok=2, **TINY)
    MixtralForCausalLM(config).save_pretrained(folder)
    return folder


class Block(nn.Module):
    """The authors' block: the base's, and adapters beside it or within its experts.

    Whoever embeds adapters in experts adds to each expert's output before the base's weight is on it. Routed ones are
    chosen by a gate of their own and weighed, on OLMoE, with what the base's router gave in the same place.
    """

    def __init__(self, block, variant, kind, *, olmoe, top_k=2):
        super().__init__()
        self.block, self.variant, self.kind, self.olmoe, self.top_k = block, variant, kind, olmoe, top_k
        count = {"shared": 1, "dense": 3, "embedded": 4, "routed": 4}[variant]
        self.down, self.up = [draw(R, HIDDEN) for _ in range(count)], [draw(HIDDEN, R) for _ in range(count)]
        self.gate = draw(count, HIDDEN)

    def adapter(self, j, x):
        if self.kind == "LoRA":
            return x @ self.down[j].T @ self.up[j].T * (ALPHA / R)
        return F.silu(x @ self.down[j].T) @ self.up[j].T

    def base_weights(self, flat):
        weights, chosen = F.softmax(flat @ self.block.gate.weight.T, dim=1).topk(2, dim=-1)
        return (weights if self.olmoe else weights / weights.sum(-1, keepdim=True)), chosen

    def forward(self, x):
        result, flat = self.block(x), x.flatten(0, -2)
        if self.variant in ("shared", "dense"):
            return result + sum(self.adapter(j, x) for j in range(len(self.down)))
        weights, chosen = self.base_weights(flat)
        if self.variant == "routed":
            own, chosen = F.softmax(flat @ self.gate.T, dim=1).topk(self.top_k, dim=-1)
            weights = weights[:, : self.top_k] if self.olmoe else own / own.sum(-1, keepdim=True)
        added = torch.zeros_like(flat)
        for token, row in enumerate(flat):
            for weight, j in zip(weights[token], chosen[token].tolist(), strict=True):
                added[token] += weight * self.adapter(j, row)
        return result + added.view(result.shape)

    def saved(self, block):
        place = {
            "routed": "shared_routing_adapter.{}.unit",
            "embedded": "experts.{}.embedded_routing_adapter.unit",
        }.get(self.variant, "shared_adapter.{}.unit")
        names = ("lora_A", "lora_B") if self.kind == "LoRA" else ("adapter_w1", "adapter_w2")
        tensors = {f"{block}.shared_routing_adapter_gate.weight": self.gate} if self.variant == "routed" else {}
        for j, pair in enumerate(zip(self.down, self.up, strict=True)):
            at = f"{block}.{place.format(j)}"
            tensors |= {f"{at}.{name}.weight": tensor for name, tensor in zip(names, pair, strict=True)}
        return tensors


def published(model, base, folder, variant, kind, arguments, *, olmoe, top_k=2):
    """What save_pretrained leaves of the authors' model, whose state_dict was cut down to what trains."""
    tensors = {}
    for number, layer in enumerate(model.model.layers):
        layer.mlp = Block(layer.mlp, variant, kind, olmoe=olmoe, top_k=top_k)
        tensors |= layer.mlp.saved(f"model.layers.{number}.{'mlp' if olmoe else 'block_sparse_moe'}")
    config = {"model_type": "olmoe-adapter" if olmoe else "mixtral-adapter", "_name_or_path": str(base)}
    config |= {"num_experts" if olmoe else "num_local_experts": 4, "num_experts_per_tok": 2, **SWITCHES[variant]}
    stem = STEMS.get(variant, "shared_adapter")
    config |= {f"{stem}_type": kind, f"{stem}_args": arguments}
    if "shared_routing_adapter_num_experts_per_tok" in config:
        config["shared_routing_adapter_num_experts_per_tok"] = top_k
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("kind", [LORA, PARALLEL], ids=["lora", "parallel"])
@pytest.mark.parametrize("variant", list(SWITCHES))
@pytest.mark.parametrize("olmoe", [True, False], ids=["olmoe", "mixtral"])
def test_every_variant_gives_the_authors_logits(variant, kind, olmoe, tiny_moe_dir, tiny_mixtral_dir, tmp_path):
    base = tiny_moe_dir if olmoe else tiny_mixtral_dir
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    path = published(model, base, tmp_path / "m", variant, *kind, olmoe=olmoe)
    made = bring(path, tmp_path / "out")
    assert made.method == {"routed": "perft-r", "embedded": "perft-e", "dense": "perft-d", "shared": "perft-s"}[variant]
    torch.testing.assert_close(served(base, tmp_path / "out"), logits(model), atol=1e-5, rtol=0)


def test_a_single_routed_adapter_weighs_one_on_mixtral(tiny_mixtral_dir, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_mixtral_dir).eval()
    path = published(model, tiny_mixtral_dir, tmp_path / "m", "routed", *LORA, olmoe=False, top_k=1)
    bring(path, tmp_path / "out", format_="perft")
    torch.testing.assert_close(served(tiny_mixtral_dir, tmp_path / "out"), logits(model), atol=1e-5, rtol=0)


def test_another_activation_in_the_bottleneck_is_refused(tiny_moe_dir, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_moe_dir).eval()
    gelu = {**PARALLEL[1], "hidden_act": "gelu"}
    path = published(model, tiny_moe_dir, tmp_path / "m", "dense", "Parallel_Adapter", gelu, olmoe=True)
    with pytest.raises(TopicLoraError, match="adapters with gelu in them"):
        bring(path, tmp_path / "out")
