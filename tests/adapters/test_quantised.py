"""Bases whose weights are packed: the adapter trains beside them, saves and reloads; nothing fuses into them."""

import pytest
import torch
from peft import PeftModel, prepare_model_for_kbit_training
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, QuantoConfig

from topiclora_cli.adapters.fused import can_fuse
from topiclora_cli.adapters.topiclora import TopicLoraLayer
from topiclora_cli.adapters.topiclora.same_input import same_input_families

SETTINGS = {
    "auto": {"top_k": 2},
    "dense-kernel": {"kernel": "dense"},
    "sparse-kernel": {"r": 4, "top_k": 2, "kernel": "sparse"},
    "layer-scope-by-prompt": {"router_scope": "layer", "granularity": "prompt"},
    "group-scope": {"router_scope": "group"},
    "ffn": {"router": "linear", "top_k": 2, "router_scope": "block", "mixing": "ffn"},
}
TOKENS = torch.tensor([[5, 9, 12, 7, 30, 8], [4, 4, 21, 17, 6, 11]])
SIZES = {"hidden_size": 64, "intermediate_size": 128}


class Int8Linear(nn.Linear):
    """As quantisation libraries do it: a subclass of nn.Linear, an integer weight, a scale."""

    def forward(self, x):
        return x @ (self.weight.to(x.dtype) * self.scale.to(x.dtype)).T


def packed_by_hand(model):
    for parent in list(model.model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                packed = Int8Linear(child.in_features, child.out_features, bias=False)
                packed.scale = child.weight.detach().abs().max() / 127
                integers = (child.weight.detach() / packed.scale).round().to(torch.int8)
                packed.weight = nn.Parameter(integers, requires_grad=False)
                setattr(parent, name, packed)
    return model


@pytest.fixture(scope="module", params=["by hand", "bitsandbytes, 4 bits", "bitsandbytes, 8 bits", "quanto"])
def packed_model(request, family_model, tmp_path_factory):
    """A function that makes a tiny llama with packed weights."""
    if request.param == "by hand":
        return lambda: packed_by_hand(family_model("llama", **SIZES))
    library = "optimum.quanto" if request.param == "quanto" else "bitsandbytes"
    pytest.importorskip(library, reason=f"{library} is not installed")
    folder = tmp_path_factory.mktemp("base")
    family_model("llama", **SIZES).save_pretrained(folder)
    four = request.param.endswith("4 bits")
    quantisation = BitsAndBytesConfig(load_in_4bit=True) if four else BitsAndBytesConfig(load_in_8bit=True)
    if request.param == "quanto":
        quantisation = QuantoConfig(weights="int8")
    return lambda: AutoModelForCausalLM.from_pretrained(folder, quantization_config=quantisation, device_map="cpu")


def is_plain(weight):
    """Quanto's weights say that they are of the type that they stand for."""
    return weight.is_floating_point() and type(weight) in (torch.Tensor, nn.Parameter)


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=TOKENS).logits.float()


def test_layers_that_read_the_same_tensor_are_found_whatever_their_weights(packed_model, family_model):
    found = same_input_families(packed_model())
    assert found
    assert found == same_input_families(family_model("llama", **SIZES))


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_packed_weights(settings, packed_model, adapted, shaken, tmp_path):
    before = logits(packed_model())
    model = adapted(prepare_model_for_kbit_training(packed_model(), use_gradient_checkpointing=False), **settings)
    layers = [module for module in model.modules() if isinstance(module, TopicLoraLayer)]
    assert len(layers) == 14
    for layer in layers:
        assert not is_plain(layer.weight)
        assert not can_fuse(torch.zeros(1), layer.topiclora_A["default"].weight, layer.base_layer)
        assert layer.topiclora_A["default"].weight.dtype == torch.float32
    torch.testing.assert_close(logits(model), before, atol=1e-5, rtol=1e-5)

    shaken(model).train()(input_ids=TOKENS, labels=TOKENS).loss.backward()
    silent = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not silent
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01).step()
    with model.disable_adapter():  # some libraries repack weights as they go, so compare what they do
        torch.testing.assert_close(logits(model), before, atol=1e-5, rtol=1e-5)

    expected = logits(model)
    assert not torch.allclose(expected, before, atol=1e-2)
    model.save_pretrained(tmp_path)
    assert torch.equal(
        logits(PeftModel.from_pretrained(prepare_model_for_kbit_training(packed_model()), tmp_path)), expected
    )
