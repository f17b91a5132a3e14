"""A trial on two tokens says whether a model makes logits only where they are asked for."""

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutput

from topiclora_cli.models.logits import selects_logits
from topiclora_cli.models.precision import store_weights_in_bfloat16
from topiclora_cli.models.upcycle import mixtral_config
from topiclora_cli.recipe.schema import UpcycleSection

SIZES = {
    **{"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 4},
}


def made(config, device):
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "olmoe", "qwen2_moe", "mamba"])
def test_models_of_transformers_do_with_weights_and_without(family, device):
    model = made(AutoConfig.for_model(family, **SIZES), device)
    experts = getattr(model.config, "_experts_implementation", None)
    assert selects_logits(model)
    assert getattr(model.config, "_experts_implementation", None) == experts


def test_an_upcycled_skeleton_does():
    assert selects_logits(made(mixtral_config(LlamaConfig(**SIZES), UpcycleSection()), "meta"))


def test_a_base_that_is_partly_in_bfloat16_does():
    model = made(LlamaConfig(**SIZES), "cpu")
    store_weights_in_bfloat16(model)
    assert selects_logits(model, bfloat16=True)


class Deaf(LlamaForCausalLM):
    """Takes every option and heeds none."""

    def forward(self, input_ids, labels=None, **kwargs):
        return super().forward(input_ids, labels=labels)


class LastOnly(LlamaForCausalLM):
    """Takes a number of last positions, as models did at first."""

    def forward(self, input_ids, labels=None, logits_to_keep=0, **kwargs):
        return super().forward(input_ids, labels=labels, logits_to_keep=int(logits_to_keep))


class OwnLoss(LlamaForCausalLM):
    """Makes the logits that are wanted, and a loss of its own."""

    def forward(self, input_ids, labels=None, logits_to_keep=0, **kwargs):
        logits = super().forward(input_ids, logits_to_keep=logits_to_keep).logits
        return CausalLMOutput(loss=F.cross_entropy(logits.flatten(0, -2), labels[:, 0]), logits=logits)


class Strict(LlamaForCausalLM):
    """Knows nothing but tokens and labels."""

    def forward(self, input_ids, labels=None):
        return super().forward(input_ids, labels=labels)


@pytest.mark.parametrize("kind", [Deaf, LastOnly, OwnLoss, Strict])
def test_what_does_not_is_found_out(kind):
    torch.manual_seed(0)
    assert not selects_logits(kind(LlamaConfig(**SIZES)).eval())


def test_the_callers_random_state_stays():
    model = made(LlamaConfig(**SIZES), "cpu")
    before = torch.random.get_rng_state()
    selects_logits(model)
    assert torch.equal(before, torch.random.get_rng_state())
