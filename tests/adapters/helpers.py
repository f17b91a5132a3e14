"""What the tests of our adapter methods share: a batch, steps upon it, doors of a saved adapter, common promises.

In the promises, `fresh` is a function that makes the base model.
"""

import copy
import io
import json
import pickle

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from topiclora_cli.adapters import record_routing

TOKENS = torch.tensor([[5, 9, 12, 7, 30, 8], [4, 4, 21, 17, 6, 11]])


@torch.no_grad()
def logits(model, tokens=TOKENS, **inputs):
    return model(input_ids=tokens, **inputs).logits


def trainable(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def train(model, steps=8):
    """Losses of a few steps on the same batch."""
    model.train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(steps):
        loss = model(input_ids=TOKENS, labels=TOKENS).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    return losses


def without_and_with_checkpointing(model):
    """Twice, the gradients of the loss and of the recorded routing's entropy, and the record."""
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.zero_grad()
        with record_routing(model) as record:
            loss = model(input_ids=TOKENS, labels=TOKENS).loss
        entropy = sum((u.softmax(-1) * u.log_softmax(-1)).sum() for u in record.logits.values())
        (loss + entropy).backward()
        yield gradients(model), record


def interrupt(*_):
    raise RuntimeError("interrupted")


def interrupted(model, register_hook):
    """Breaks a forward pass off where `register_hook` puts a hook."""
    stop = register_hook(interrupt)
    with pytest.raises(RuntimeError, match="interrupted"):
        model(input_ids=TOKENS)
    stop.remove()


def copies_of(model):
    """Copies of every kind: by copy, by pickle and by torch."""
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(buffer, weights_only=False)]


def by_peft(folder, base):
    return PeftModel.from_pretrained(base(), folder)


def by_peft_empty_first(folder, base):
    return PeftModel.from_pretrained(base(), folder, low_cpu_mem_usage=True)


def by_load_adapter(folder, base):
    model = base()
    model.load_adapter(str(folder))
    return model


def rewrite(folder, **settings):
    """Changes a saved adapter's settings."""
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


def damage(folder, part, value):
    """Puts `value` into the last place of a saved weight whose name ends with `part`."""
    file = folder / "adapter_model.safetensors"
    state = load_file(file)
    key = next(key for key in state if key.endswith(part))
    state[key].view(-1)[-1] = value
    save_file(state, file, metadata={"format": "pt"})


def assert_same_gradients(actual, expected, atol=1e-5):
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, atol=atol, rtol=1e-4)


def assert_training_moves_the_adapter_alone(model, below):
    """Training brings the loss below this part of its start, and moves what is to train and nothing else."""
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    losses = train(model)
    assert losses[-1] < below * losses[0]
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == trainable(model)


def assert_saved_keys_are_free_of_the_adapters_name(folder, expected, prefix):
    """The saved adapter `other` has the expected keys, all of them with the method's prefix and without a name."""
    keys = load_file(folder / "adapter_model.safetensors").keys()
    assert all(f".{prefix}" in key and "other" not in key and "default" not in key for key in keys)
    assert keys == expected.keys()


def assert_loads_bit_equal_by_every_door(folder, fresh, expected):
    doors = {
        "PeftModel": by_peft(folder, fresh),
        "PeftModel, empty weights first": by_peft_empty_first(folder, fresh),
        "AutoPeftModelForCausalLM": AutoPeftModelForCausalLM.from_pretrained(folder),
        "AutoModelForCausalLM": AutoModelForCausalLM.from_pretrained(folder),
        "load_adapter": by_load_adapter(folder, fresh),
    }
    for door, loaded in doors.items():
        assert torch.equal(logits(loaded.eval()), expected), door


def assert_switch_disable_and_delete(model, first, second, fresh):
    """With the adapters `default` and `second`, whose logits are given, and the second active."""
    assert not torch.equal(first, second)
    model.set_adapter("default")
    assert torch.equal(logits(model), first)
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(fresh()))
    model.delete_adapter("default")
    model.set_adapter("second")
    assert torch.equal(logits(model), second)


def assert_the_active_adapter_alone_trains(model, config):
    """After adding to the adapter `default`, switching, disabling and deleting; `config` makes a configuration."""
    first = trainable(model)
    model.add_adapter("other", config())
    assert trainable(model) == first
    model.set_adapter("other")
    assert trainable(model) == {name.replace("default", "other") for name in first}
    with model.disable_adapter():
        assert not trainable(model)
    model.delete_adapter("other")
    assert model.active_adapters == ["default"]
    assert trainable(model) == first
    model.set_requires_grad("default", False)
    model.add_adapter("third", config())
    assert not trainable(model)  # adding one adapter does not thaw another
    with pytest.raises(ValueError, match="does not exist"):
        model.delete_adapter("unknown")


def assert_decoding_equals_the_full_forward(model, full):
    """A forward pass with the cache of the first four tokens gives the logits `full` of those behind them."""
    with torch.no_grad():
        start = model(input_ids=TOKENS[:, :4], use_cache=True)
        rest = model(input_ids=TOKENS[:, 4:], past_key_values=start.past_key_values, use_cache=True)
    torch.testing.assert_close(rest.logits, full, atol=1e-5, rtol=0)


def assert_runs_and_trains_in(model, dtype):
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert logits(model).dtype == dtype
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
