"""A CUDA device computes what the CPU does: outputs, gradients, greedy text, and the kernels that only it takes."""

import copy

import pytest
import torch
from peft import get_peft_model

from tests.adapters.helpers import TOKENS, gradients
from topiclora_cli.adapters import PerftConfig, TopicLoraConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

ROWS = TOKENS.repeat(4, 4)  # enough to be sorted
MIXTURES = {
    "topic": {"router": "topic"},
    "top2": {"router": "linear", "top_k": 2},
    "layer": {"router": "linear", "router_scope": "layer", "top_k": 2, "shared_experts": 4},
    "cosine": {"router": "cosine", "shared_a": True},
    "threshold": {"router": "threshold"},
    "prompt": {"router": "topic", "granularity": "prompt"},
    "ffn": {"router": "linear", "router_scope": "block", "mixing": "ffn", "top_k": 2},
    "sparse": {"router": "linear", "top_k": 2, "kernel": "sparse"},
    "sparse-shared-a": {"router": "linear", "top_k": 2, "kernel": "sparse", "shared_a": True},
    "plain": {"router": "linear", "top_k": 2, "kernel": "plain"},
}
VARIANTS = {
    "perft-r": {},
    "perft-topic": {"router": "topic"},
    "perft-e": {"variant": "embedded", "adapter_type": "parallel"},
    "perft-e-sparse": {"variant": "embedded", "kernel": "sparse"},
    "perft-d": {"variant": "dense"},
}


@pytest.fixture(autouse=True)
def whole_float32():
    """TF32 would hide an error of three digits."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture(params=[*MIXTURES, *VARIANTS])
def on_both(request, family_model, shaken):
    """The same adapted model on the CPU and on the device; ranks of 8 are whole 16 bytes."""
    common = {"r": 8, "task_type": "CAUSAL_LM"}
    if request.param in MIXTURES:
        sizes = {"num_experts": 8, "target_modules": "all-linear", "router_width": 8}
        config = TopicLoraConfig(**{**common, **sizes, **MIXTURES[request.param]})
        model = shaken(get_peft_model(family_model("llama"), config))
    else:
        config = PerftConfig(**{**common, "num_adapters": 8, **VARIANTS[request.param]})
        model = shaken(get_peft_model(family_model("olmoe"), config))
    return model, copy.deepcopy(model).cuda()


@pytest.mark.filterwarnings("ignore:Routing by prompt")
def test_outputs_and_gradients_are_the_cpus(on_both):
    outcomes = []
    for model in on_both:
        rows = ROWS.to(model.device)
        found = model.train()(input_ids=rows, labels=rows)
        found.loss.backward()
        grads = {name: gradient.cpu() for name, gradient in gradients(model).items()}
        outcomes.append((found.logits.detach().cpu(), grads))
    (expected, expected_grads), (actual, grads) = outcomes
    torch.testing.assert_close(actual, expected, atol=2e-4, rtol=1e-3)
    assert grads.keys() == expected_grads.keys()
    for name, gradient in expected_grads.items():
        # Relative to the whole tensor: single elements are sums that cancel.
        assert torch.dist(grads[name], gradient) <= 2e-3 * gradient.norm() + 1e-6, name


def test_greedy_text_is_the_cpus(on_both):
    here, there = (
        model.eval().generate(
            input_ids=TOKENS.to(model.device),
            attention_mask=torch.ones_like(TOKENS).to(model.device),
            max_new_tokens=6,
            do_sample=False,
        )
        for model in on_both
    )
    assert torch.equal(here, there.cpu())


@pytest.mark.filterwarnings("ignore:Routing by prompt")
def test_autocast_trains_in_bfloat16(on_both):
    """Routers may choose otherwise at single tokens, so the loss is held against float32's and the logits are not."""
    _, model = on_both
    rows = ROWS.cuda()
    with torch.no_grad():
        whole = model.train()(input_ids=rows, labels=rows).loss
    with torch.autocast("cuda", torch.bfloat16):
        loss = model(input_ids=rows, labels=rows).loss
    loss.backward()
    assert all(gradient.isfinite().all() for gradient in gradients(model).values())
    torch.testing.assert_close(loss.float(), whole, atol=0.0, rtol=0.1)
