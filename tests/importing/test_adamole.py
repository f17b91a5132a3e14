"""AdaMoLE and MoLE against the layers of their repository."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.importing.helpers import bring, draw, linears, logits, put, save, served
from topiclora_cli.errors import TopicLoraError

P = "base_model.model."
R, ALPHA, E = 4, 8, 4


class Adaptive(nn.Module):
    """AdaMoeLayer beside a linear layer; TopKMoeLayer with a top_k."""

    def __init__(self, base, top_k=None):
        super().__init__()
        self.base, self.top_k = base, top_k
        self.a = [draw(R, base.in_features) for _ in range(E)]
        self.b = [draw(base.out_features, R) for _ in range(E)]
        self.gating = draw(E, base.in_features)
        self.threshold, self.bias = draw(1, base.in_features), draw(1)

    def weights(self, x):
        gates = F.softmax(x @ self.gating.T, dim=-1)
        if self.top_k is not None:
            kept, chosen = gates.topk(self.top_k, dim=-1)
            return torch.zeros_like(gates).scatter(-1, chosen, kept / kept.sum(-1, keepdim=True))
        adapted = gates - torch.sigmoid(x @ self.threshold.T + self.bias) / E
        kept = adapted * torch.ge(adapted, 0).float()
        sums = kept.sum(-1, keepdim=True)
        return kept / torch.where(sums == 0, torch.ones_like(sums), sums)

    def forward(self, x):
        weights = self.weights(x)
        experts = (weights[..., e, None] * (x @ self.a[e].T @ self.b[e].T) for e in range(E))
        return self.base(x) + sum(experts) * (ALPHA / R)

    def saved(self, name):
        tensors = {f"{P}{name}.lora_gating.weight": self.gating}
        if self.top_k is None:
            tensors |= {
                f"{P}{name}.lora_threshold.weight": self.threshold,
                f"{P}{name}.lora_threshold.bias": self.bias,
            }
        for e in range(E):
            for part, matrix in (("lora_A", self.a[e]), ("lora_B", self.b[e])):
                tensors[f"{P}{name}.{part}.{e}.weight"] = matrix
                tensors[f"{P}{name}.moe_layer.experts.{e}.{part}.weight"] = matrix
        return tensors


def published(model, base, tmp_path, top_k=None, **others):
    tensors = {}
    for name, linear in linears(model, "q_proj", "v_proj").items():
        put(model, name, layer := Adaptive(linear, top_k))
        tensors |= layer.saved(name)
    kind = {"peft_type": "ADAMOLE", "max_threshold": None} if top_k is None else {"peft_type": "MOLE", "top_k": top_k}
    sizes = {"lora_rank": R, "lora_alpha": ALPHA, "lora_dropout": 0.0, "num_experts": E}
    return save(tmp_path / "m", tensors, {**kind, **sizes, "base_model_name_or_path": str(base), **others})


@pytest.mark.parametrize("others", [{}, {"max_threshold": 0.25}])
def test_adamole_gives_its_logits(others, tiny_model, tiny_model_dir, tmp_path):
    bring(published(tiny_model, tiny_model_dir, tmp_path, **others), tmp_path / "out")
    torch.testing.assert_close(served(tiny_model_dir, tmp_path / "out"), logits(tiny_model), atol=1e-5, rtol=0)


@pytest.mark.parametrize("top_k", [1, 2])
def test_mole_by_top_k_gives_its_logits(top_k, tiny_model, tiny_model_dir, tmp_path):
    path = published(tiny_model, tiny_model_dir, tmp_path, top_k=top_k, threshold=None)
    bring(path, tmp_path / "out", format_="adamole")
    torch.testing.assert_close(served(tiny_model_dir, tmp_path / "out"), logits(tiny_model), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("top_k", "others", "message"),
    [(None, {"max_threshold": 0.5}, "max_threshold 0.5"), (2, {"threshold": 0.1}, "fixed threshold")],
)
def test_other_thresholds_are_refused_with_the_reason(top_k, others, message, tiny_model, tiny_model_dir, tmp_path):
    path = published(tiny_model, tiny_model_dir, tmp_path, top_k=top_k, **others)
    with pytest.raises(TopicLoraError, match=message):
        bring(path, tmp_path / "out")
