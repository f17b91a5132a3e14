"""HydraLoRA, LoRAMoE, LD-MoLE and MoLA: imported adapters give the logits of the publishers' own layers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import topiclora_cli as topiclora
from tests.importing.helpers import Asked, bring, draw, linears, logits, put, save, served
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.importing.checkpoint import read_checkpoint

P = "base_model.model."
R, ALPHA, E = 4, 12, 3


class Dense(nn.Module):
    """HydraLoRA's and LoRAMoE's Linear: a softmax over all of `lora_route`; A shared, or each expert's."""

    def __init__(self, base, *, shared):
        super().__init__()
        self.base, self.shared = base, shared
        self.a = [draw(R, base.in_features) for _ in range(1 if shared else E)]
        self.b = [draw(base.out_features, R) for _ in range(E)]
        self.route = draw(E, base.in_features)

    def forward(self, x):
        result = self.base(x)
        route = torch.softmax(x @ self.route.T, dim=-1, dtype=torch.float32)
        for i in range(E):
            hidden = x @ self.a[0 if self.shared else i].T
            result = result + route[:, :, i].unsqueeze(-1) * (hidden @ self.b[i].T) * (ALPHA / R)
        return result

    def saved(self, name):
        a = {f"{P}{name}.lora_A{'' if self.shared else i}.weight": a for i, a in enumerate(self.a)}
        b = {f"{P}{name}.lora_B{i}.weight": b for i, b in enumerate(self.b)}
        return {f"{P}{name}.lora_route.weight": self.route, **a, **b}


class Mola(nn.Module):
    """MoLA's Linear_MoE: the top_k of a softmax over all, made to sum to one."""

    def __init__(self, base, *, experts, rank, top_k):
        super().__init__()
        self.base, self.experts, self.rank, self.top_k = base, experts, rank, top_k
        self.a = [draw(rank, base.in_features) for _ in range(experts)]
        self.b = [draw(base.out_features, rank) for _ in range(experts)]
        self.router = draw(experts, base.in_features)

    def forward(self, x):
        result, flat = self.base(x), x.flatten(0, 1)
        weights, chosen = F.softmax(flat @ self.router.T, dim=1).topk(self.top_k, dim=-1)
        weights = weights / weights.sum(-1, keepdim=True)
        final = torch.zeros(len(flat), result.shape[-1])
        for token in range(len(flat)):
            for weight, e in zip(weights[token], chosen[token].tolist(), strict=True):
                final[token] += weight * (self.b[e] @ (self.a[e] @ flat[token])) * (ALPHA / self.rank)
        return result + final.view(result.shape)

    def saved(self, name):
        a = {f"{P}{name}.lora_A_{i}.weight": a for i, a in enumerate(self.a)}
        b = {f"{P}{name}.lora_B_{i}.weight": b for i, b in enumerate(self.b)}
        return {f"{P}{name}.router.router.weight": self.router, **a, **b}


def hydra_settings(base, **others):
    own = {"peft_type": "LORA", "r": R, "lora_alpha": ALPHA, "lora_nums": E, "lora_dropout": 0.05, "bias": "none"}
    return {**own, "base_model_name_or_path": str(base), "blc_alpha": 0.0, "blc_weight": 0.0, **others}


def published(model, tmp_path, layers, settings):
    """The publisher's model, and its checkpoint."""
    tensors = {}
    for name, layer in layers.items():
        put(model, name, layer)
        tensors |= layer.saved(name)
    return save(tmp_path / "published", tensors, settings)


def dense(model, base, tmp_path, *, shared, **others):
    layers = {name: Dense(linear, shared=shared) for name, linear in linears(model, "up_proj", "down_proj").items()}
    return published(model, tmp_path, layers, hydra_settings(base, target_modules=["up_proj", "down_proj"], **others))


@pytest.mark.parametrize(
    ("name", "others"),
    [("hydralora", {}), ("loramoe", {}), ("loramoe", {"sparsegen_cfg": {"enabled": False}, "sparsegen": False})],
)
def test_a_dense_mixture_gives_the_publishers_logits(name, others, tiny_model, tiny_model_dir, tmp_path):
    path = dense(tiny_model, tiny_model_dir, tmp_path, shared=name == "hydralora", **others)
    assert bring(path, tmp_path / "out").format == name
    torch.testing.assert_close(served(tiny_model_dir, tmp_path / "out"), logits(tiny_model), atol=1e-5, rtol=0)


@pytest.mark.parametrize("top_k", [1, 2])
def test_mola_gives_the_publishers_logits_with_experts_and_ranks_by_layer(top_k, tiny_model, tiny_model_dir, tmp_path):
    layers = {}
    for name, linear in linears(tiny_model, "q_proj", "v_proj", "down_proj").items():
        upper = name.split(".")[2] == "1"
        layers[name] = Mola(linear, experts=4 if upper else 2, rank=6 if upper else 3, top_k=top_k)
    settings = {"peft_type": "LORA", "r": [3, 6], "lora_alpha": ALPHA, "lora_dropout": 0.05}
    path = published(tiny_model, tmp_path, layers, {**settings, "base_model_name_or_path": str(tiny_model_dir)})
    made = bring(path, tmp_path / "out", asked=Asked(top_k=top_k))
    assert made.method == "mola"
    torch.testing.assert_close(served(tiny_model_dir, tmp_path / "out"), logits(tiny_model), atol=1e-5, rtol=0)


def test_whole_modules_beside_the_experts_come_along(tiny_model, tiny_model_dir, tmp_path):
    head = nn.Linear(32, tiny_model.config.vocab_size, bias=False)
    path = dense(tiny_model, tiny_model_dir, tmp_path, shared=True, modules_to_save=["lm_head"])
    tensors = dict(read_checkpoint(path).tensors)
    tensors |= {
        f"{P}lm_head.original_module.weight": tiny_model.lm_head.weight.detach(),
        f"{P}lm_head.modules_to_save.weight": head.weight.detach(),
    }
    save(path, tensors, hydra_settings(tiny_model_dir, modules_to_save=["lm_head"]))
    bring(path, tmp_path / "out")
    tiny_model.lm_head = head
    torch.testing.assert_close(served(tiny_model_dir, tmp_path / "out"), logits(tiny_model), atol=1e-5, rtol=0)


def test_python_users_get_the_run(tiny_model, tiny_model_dir, tmp_path):
    path = dense(tiny_model, "nobody/nothing", tmp_path, shared=True)
    run = topiclora.import_checkpoint(path, tmp_path / "out", base=str(tiny_model_dir))
    assert run.adapter == run.path == tmp_path / "out"
    torch.testing.assert_close(served(tiny_model_dir, run.adapter), logits(tiny_model), atol=1e-5, rtol=0)


def test_sparsegen_is_refused_with_the_reason(tiny_model, tiny_model_dir, tmp_path):
    path = dense(tiny_model, tiny_model_dir, tmp_path, shared=False, sparsegen_cfg={"enabled": True})
    with pytest.raises(TopicLoraError, match="sparsegen router, whose network all layers share"):
        bring(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_mola_says_which_top_k_it_took(tiny_model, tiny_model_dir, tmp_path):
    said = []
    layers = {n: Mola(linear, experts=2, rank=3, top_k=2) for n, linear in linears(tiny_model, "q_proj").items()}
    settings = {"r": [3, 3], "lora_alpha": ALPHA, "base_model_name_or_path": str(tiny_model_dir)}
    path = published(tiny_model, tmp_path, layers, settings)
    bring(path, tmp_path / "out", type("Told", (), {"say": staticmethod(said.append)})())
    assert "2 it is, as in the authors' code (--top-k)" in said[0]
    torch.testing.assert_close(served(tiny_model_dir, tmp_path / "out"), logits(tiny_model), atol=1e-5, rtol=0)
