"""What PERFT keeps for backward beside a frozen mixture of 64 experts, to the byte: rank space, never full width."""

import pytest
import torch
from peft import get_peft_model
from transformers import OlmoeConfig, OlmoeForCausalLM

from tests.bench.saved_bytes import saved_bytes
from topiclora_cli.adapters import PerftConfig
from topiclora_cli.adapters.dispatch import MOST_FILLING

TOKENS, EXPERTS, TOP_K, R = 1024, 64, 8, 8
VARIANTS = {
    "embedded": {"variant": "embedded"},
    "embedded-parallel": {"variant": "embedded", "adapter_type": "parallel"},
    "routed": {"num_adapters": EXPERTS, "top_k": TOP_K},
    "routed-parallel": {"num_adapters": EXPERTS, "top_k": TOP_K, "adapter_type": "parallel"},
    "routed-renormalised": {"num_adapters": EXPERTS, "top_k": TOP_K, "renormalize": "on"},
    "routed-pretrained-weights": {"num_adapters": EXPERTS, "top_k": TOP_K, "router_weight_source": "pretrained"},
    "topic": {"num_adapters": EXPERTS, "top_k": TOP_K, "router": "topic"},
}


def base(width, layers=1):
    torch.manual_seed(0)
    sizes = {"hidden_size": width, "intermediate_size": 16, "num_experts": EXPERTS, "num_experts_per_tok": TOP_K}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": layers}
    return OlmoeForCausalLM(OlmoeConfig(vocab_size=64, eos_token_id=1, **sizes, **heads)).requires_grad_(False)


def kept(model, width):
    """Words of four bytes per token; the input asks for its gradient, as behind an adapted layer."""
    torch.manual_seed(1)
    x = torch.randn(4, TOKENS // 4, width, requires_grad=True)
    return saved_bytes(lambda: model(inputs_embeds=x).logits, model.parameters()) / 4 / TOKENS


def beyond_base(width, layers=1, **settings):
    config = PerftConfig(**{"r": R, "task_type": "CAUSAL_LM", **settings})
    adapted = get_peft_model(base(width, layers), config).train()
    return kept(adapted, width) - kept(base(width, layers).train(), width)


@pytest.mark.parametrize("width", [128, 256])
@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS.keys())
def test_keeps_the_input_once_and_the_rank_space_of_active_pairs(settings, width):
    # A pair in its run: r of Down h, a token (int64), a weight; runs are filled up to at most MOST_FILLING times the
    # pairs. A pair: its place (int64). A router of its own: M probabilities and, for each slot, an index (int64), a
    # weight that renormalising divides, and a weight by which it divides.
    pairs = TOP_K * (MOST_FILLING * (R + 2 + 1) + 2)
    router = 0 if settings.get("variant") == "embedded" else EXPERTS + TOP_K * 4
    extra = beyond_base(width, **settings)
    assert width < extra <= width + pairs + router + 1
    assert extra - width < 5 * TOP_K * R  # as measured, where no run is three times too long
    assert extra < TOP_K * width / 2  # of what a gathered (tokens, k, d) would be, to say nothing of (tokens, k, r, d)


def test_masking_keeps_every_adapter_and_sorting_does_not():
    masked = beyond_base(128, variant="embedded", kernel="dense")
    assert masked >= 128 + 2 * EXPERTS * R
    assert beyond_base(128, variant="embedded") < 0.4 * masked


def test_grows_with_layers_and_rank_alone():
    one, two = beyond_base(128, variant="embedded"), beyond_base(128, layers=2, variant="embedded")
    assert two == pytest.approx(2 * one, rel=0.1)
    wide = beyond_base(128, r=16, variant="embedded")
    assert wide - one <= TOP_K * R * MOST_FILLING


@pytest.mark.parametrize(("settings", "words"), [({"variant": "shared"}, R + 1), ({"variant": "dense"}, 8 * (R + 1))])
def test_unrouted_adapters_keep_input_rank_space_and_weights(settings, words):
    assert beyond_base(128, **settings) <= 128 + words + 8 * R  # the products with their weights too
