"""Configuration errors, keys, recording, parameter counts."""

import pytest
import torch
from peft import get_peft_model

from topiclora_cli.adapters import TopicLoraConfig, record_routing
from topiclora_cli.adapters.counting import count_parameters
from topiclora_cli.adapters.keys import keys_from_anchors, simplex
from topiclora_cli.adapters.observe import observe_gates
from topiclora_cli.adapters.routers import RouterSettings, TopicRouter
from topiclora_cli.errors import TopicLoraError

TOKENS = torch.tensor([[5, 9, 12, 7], [4, 4, 21, 17]])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 0}, "at least 1"),
        ({"num_experts": 0}, "at least 1"),
        ({"top_k": 9}, "top_k"),
        ({"router": "lienar"}, "unknown"),
        ({"anchors": [[1.0], [0.0]]}, "2 anchors do not fit"),
        ({"target_modules": "q_.*", "layers_to_transform": [0]}, "regular expression"),
    ],
)
def test_bad_settings_say_what_is_wrong(settings, message):
    with pytest.raises(TopicLoraError, match=message):
        TopicLoraConfig(**settings)


@pytest.mark.parametrize("shape", [(4, 9), (8, 3)])
def test_keys_keep_every_inner_product(shape):
    anchors = torch.randn(*shape)
    keys = keys_from_anchors(anchors)
    assert keys.shape == (shape[0], shape[0])
    torch.testing.assert_close(keys @ keys.T, anchors @ anchors.T, atol=1e-5, rtol=1e-5)


def test_simplex_is_as_far_apart_as_vectors_can_be():
    keys = simplex(5)
    cosines = keys @ keys.T
    torch.testing.assert_close(cosines[~torch.eye(5, dtype=torch.bool)], torch.full((20,), -1 / 4))


def test_topic_router_is_the_formula():
    keys = torch.randn(4, 4)
    router = TopicRouter(RouterSettings(6, 4, temperature=0.5), keys)
    with torch.no_grad():
        router.bias.uniform_()
    x = torch.randn(3, 6)
    expected = (x @ router.weight.T) @ keys.T / (0.5 * 4**0.5) + router.bias
    torch.testing.assert_close(router(x, lambda scores: scores)[0], expected)


def test_frozen_keys_are_saved_but_not_trained():
    router = TopicRouter(RouterSettings(6, 4), torch.eye(4))
    assert "keys" in router.state_dict()
    assert "keys" not in dict(router.named_parameters())


def test_recorder_sees_each_layer_once_and_only_inside_the_block(tiny_model):
    model = get_peft_model(tiny_model, TopicLoraConfig(r=2, num_experts=4, target_modules=["q_proj"]))
    with record_routing(model) as record:
        model(input_ids=TOKENS)
    model(input_ids=TOKENS)
    assert list(record.logits) == ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"]
    assert record.gates["model.layers.0.self_attn.q_proj"].shape == (2, 4, 4)


def test_observed_gates_ignore_padding(tiny_model):
    model = get_peft_model(tiny_model, TopicLoraConfig(r=2, num_experts=4, target_modules=["q_proj"]))
    ones = torch.ones_like(TOKENS)
    positions = torch.arange(4).expand(2, -1)
    plain = {"input_ids": TOKENS, "attention_mask": ones, "position_ids": positions, "token_mask": ones}
    pad, zeros = torch.full((2, 3), 2), torch.zeros(2, 3, dtype=torch.long)
    padded = {
        "input_ids": torch.cat([pad, TOKENS], 1),
        "attention_mask": torch.cat([zeros, ones], 1),
        "position_ids": torch.cat([zeros, positions], 1),
        "token_mask": torch.cat([zeros, ones], 1),
    }
    for name, gates in observe_gates(model, [plain]).items():
        torch.testing.assert_close(observe_gates(model, [padded])[name], gates, atol=1e-5, rtol=0)


def test_activated_parameters_count_k_experts(tiny_model):
    settings = {"r": 2, "num_experts": 4, "target_modules": ["q_proj"]}
    model = get_peft_model(tiny_model, TopicLoraConfig(**settings, top_k=2))
    per_layer_experts, router = 4 * 2 * (32 + 32), 4 * 32 + 4
    assert count_parameters(model) == (2 * (per_layer_experts + router), 2 * (per_layer_experts // 2 + router))
