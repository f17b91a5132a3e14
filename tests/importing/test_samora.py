"""SAMoRA against its own layer, one task at a time."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.importing.helpers import Asked, bring, draw, linears, logits, put, save, served
from topiclora_cli.errors import TopicLoraError

R, E, TASKS = 4, 3, 2


class SaLinear(nn.Module):
    """SALinear, for one task or, with none, the mean of all."""

    def __init__(self, base, *, task, temperature):
        super().__init__()
        self.base, self.task, self.temperature = base, task, temperature
        self.a, self.b, self.lambdas = draw(R, base.in_features), draw(E, base.out_features, R), draw(E, R)
        self.scale, self.embedding, self.gate = draw(R), draw(TASKS, 8), draw(8, 1)

    def forward(self, x):
        hidden = x @ self.a.T
        cosine = F.normalize(hidden, dim=-1) @ F.normalize(self.lambdas, dim=-1).T
        routed = F.softmax(cosine / self.temperature, dim=-1)
        added = torch.einsum("bte,btr,ehr->bth", routed, hidden * self.scale, self.b)
        scores = self.embedding @ self.gate
        return self.base(x) + torch.sigmoid(scores.mean(0) if self.task is None else scores[self.task]) * added

    def saved(self, name):
        return {
            f"{name}.lora_A": self.a,
            f"{name}.lora_lambdas": self.lambdas,
            f"{name}.lora_B": self.b,
            f"{name}.lora_scale": self.scale,
            f"{name}.lora_task_embedding.weight": self.embedding,
            f"{name}.lora_task_gate_weight": self.gate,
        }


def published(model, tmp_path, **options):
    tensors = {}
    for name, linear in linears(model, "q_proj", "o_proj").items():
        put(model, name, layer := SaLinear(linear, **options))
        tensors |= layer.saved(name)
    return save(tmp_path / "checkpoint", tensors, None, weights="final_checkpoint.pt").parent


@pytest.mark.parametrize(("task", "temperature"), [(None, None), (1, 1.0)])
def test_one_task_of_samora_gives_its_logits(task, temperature, tiny_model, tiny_model_dir, tmp_path):
    path = published(tiny_model, tmp_path, task=task, temperature=temperature or 0.8)
    asked = Asked(task=task, temperature=temperature)
    assert bring(path, tmp_path / "out", base=str(tiny_model_dir), asked=asked).format == "samora"
    torch.testing.assert_close(served(tiny_model_dir, tmp_path / "out"), logits(tiny_model), atol=1e-5, rtol=0)


def test_a_samora_names_no_base_and_has_so_many_tasks(tiny_model, tiny_model_dir, tmp_path):
    path = published(tiny_model, tmp_path, task=None, temperature=0.8)
    with pytest.raises(TopicLoraError, match="Name it with --base"):
        bring(path, tmp_path / "out")
    with pytest.raises(TopicLoraError, match="--task 2: the checkpoint has 2 tasks, from 0"):
        bring(path, tmp_path / "out", base=str(tiny_model_dir), asked=Asked(task=2))
