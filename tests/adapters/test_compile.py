"""torch.compile without a graph break: what eager gives, forward and backward."""

import pytest
import torch
from peft import get_peft_model
from torch import nn

from topiclora_cli.adapters import TopicLoraConfig

BLOCK = ["gate_proj", "up_proj", "down_proj"]
CONFIGS = {
    "topic-top2": {"top_k": 2},
    "top-p": {"router": "linear", "top_p": 0.6},
    "layer-scope": {"router": "linear", "top_k": 2, "router_scope": "layer"},
    "by-prompt": {"granularity": "prompt", "router_scope": "block"},
    "ffn": {"router": "linear", "top_k": 2, "router_scope": "block", "mixing": "ffn"},
    "sparsegen": {"router": "sparsegen", "router_width": 6},
    "graph": {"router": "graph", "router_width": 6},
    "sparse-kernel": {"r": 4, "top_k": 2, "kernel": "sparse"},
    "shared-experts": {"top_k": 2, "shared_experts": 2},
    "shared-experts-in-the-softmax": {"router": "linear", "shared_experts": 2, "shared_gate": "softmax"},
}
TOKENS = torch.tensor([[5, 9, 12, 7, 30, 8], [4, 4, 21, 17, 6, 11]])


class FeedForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp = nn.ModuleDict(
            {"gate_proj": nn.Linear(32, 48), "up_proj": nn.Linear(32, 48), "down_proj": nn.Linear(48, 32)}
        )

    def forward(self, x):
        return self.mlp["down_proj"](self.mlp["gate_proj"](x).sigmoid() * self.mlp["up_proj"](x))


@pytest.fixture(autouse=True)
def clean_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def assert_same(model, compiled, run):
    """`run` of the compiled model equals that of the eager one, and so do the gradients of all parameters."""
    results = []
    for each in (model, compiled):
        model.zero_grad()
        out = run(each)
        out.float().square().mean().backward()
        results.append({"out": out.detach()} | {n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    eager, ours = results
    assert eager.keys() == ours.keys()
    for name, expected in eager.items():
        assert (ours[name] - expected).abs().max() <= 1e-5 * max(1.0, expected.abs().max().item()), name


@pytest.mark.parametrize("settings", CONFIGS.values(), ids=CONFIGS.keys())
def test_a_block_compiles_whole(settings, shaken):
    config = TopicLoraConfig(**{"r": 2, "num_experts": 4, "target_modules": BLOCK, **settings})
    model = shaken(get_peft_model(FeedForward(), config)).double().eval()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 6, 32, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert_same(model, compiled, lambda each: each(x))
    if settings == CONFIGS["topic-top2"]:
        assert_same(model, compiled, lambda each: each(x[:, :4]))


@pytest.mark.parametrize("name", ["topic-top2", "layer-scope", "by-prompt"])
def test_a_model_compiles_whole(name, family_model, adapted, shaken):
    model = shaken(adapted(family_model("llama", num_hidden_layers=1), **CONFIGS[name]))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert_same(model, compiled, lambda each: each(input_ids=TOKENS).logits)


def test_switching_adapters_after_compiling_takes_effect(family_model, adapted, shaken):
    model = shaken(adapted(family_model("llama", num_hidden_layers=1), target_modules=["q_proj"]))
    compiled = torch.compile(model, backend="eager")
    model.add_adapter("second", TopicLoraConfig(r=2, num_experts=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        first = compiled(input_ids=TOKENS).logits
        model.set_adapter("second")
        second = compiled(input_ids=TOKENS).logits
        assert torch.equal(second, model(input_ids=TOKENS).logits)
    assert not torch.equal(first, second)


@pytest.mark.slow
def test_inductor(family_model, adapted, shaken):
    model = shaken(adapted(family_model("llama", num_hidden_layers=1), top_k=2, router_scope="layer"))
    assert_same(model, torch.compile(model, fullgraph=True), lambda each: each(input_ids=TOKENS).logits)
