"""Small promises to those who use the adapters as a library, through peft's own helpers."""

import pytest
import torch
from peft import get_peft_model
from peft.helpers import disable_input_dtype_casting

from tests.adapters.helpers import trainable
from topiclora_cli.adapters import PerftConfig, TopicLoraConfig
from topiclora_cli.errors import TopicLoraError

CONFIGS = {
    "mixture": ("llama", {"kernel": "plain"}, TopicLoraConfig),
    "perft": ("olmoe", {"variant": "dense"}, PerftConfig),
}


@pytest.mark.parametrize(("family", "settings", "kind"), CONFIGS.values(), ids=CONFIGS)
def test_input_casting_can_be_turned_off(family, settings, kind, family_model):
    targets = {"target_modules": ["down_proj"]} if kind is TopicLoraConfig else {}
    model = get_peft_model(family_model(family), kind(r=2, task_type="CAUSAL_LM", **settings, **targets))
    layers = [module for module in model.modules() if hasattr(module, "cast_input_dtype_enabled")]
    x = torch.zeros(1, 2, dtype=torch.bfloat16)
    assert layers
    for layer in layers:
        assert layer.adapter_input(x, torch.zeros(1)).dtype == torch.float32
        with disable_input_dtype_casting(model):
            assert layer.adapter_input(x, torch.zeros(1)).dtype == torch.bfloat16
        assert layer.adapter_input(x, torch.zeros(1)).dtype == torch.float32


def test_errors_are_value_errors():
    with pytest.raises(ValueError, match="top_k") as error:
        TopicLoraConfig(top_k=9)
    assert isinstance(error.value, TopicLoraError)


def test_a_perft_configuration_used_on_a_second_model_adapts_all_of_its_blocks(family_model):
    config = PerftConfig(r=2, task_type="CAUSAL_LM")
    get_peft_model(family_model("olmoe", num_hidden_layers=1), config)
    assert config.target_modules is None
    model = get_peft_model(family_model("olmoe", num_hidden_layers=3), config)
    assert {name.split(".layers.")[1][0] for name in trainable(model)} == {"0", "1", "2"}
