"""Who shares a router in the group scope: what reads the same tensor, found by a trial and kept in the file."""

import json

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn

from tests.adapters.conftest import FAMILIES
from tests.adapters.helpers import logits, rewrite
from topiclora_cli.adapters import TopicLoraConfig, record_routing
from topiclora_cli.adapters.targets import linear_layers
from topiclora_cli.adapters.topiclora.same_input import kind_of, same_input_families
from topiclora_cli.adapters.topiclora.scope import USUAL_FAMILIES, reading_order, scope_key

# Where the usual names say something else: names without an entry, the order of running, a part that is never called.
OTHERWISE = {
    "qwen3_next": ["linear_attn.in_proj_qkvz", "linear_attn.in_proj_ba"],
    "recurrent_gemma": ["temporal_block.linear_y", "temporal_block.linear_x"],
    "falcon_h1": ["feed_forward.up_proj", "feed_forward.gate_proj"],
    "bart": None,
}


def grouped(names, families):
    groups = {}
    for name in reading_order(names, families):
        groups.setdefault(scope_key(name, "group", families), []).append(name)
    return sorted(groups.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_trial_finds_what_the_usual_names_say(family, family_model):
    model = family_model(family)
    found = same_input_families(model)
    names = linear_layers(model)
    if family in OTHERWISE:
        assert grouped(names, found) != grouped(names, USUAL_FAMILIES)
        assert OTHERWISE[family] is None or OTHERWISE[family] in found
    else:
        assert grouped(names, found) == grouped(names, USUAL_FAMILIES)


class Odd(nn.Module):
    """Names that nobody knows, read in another order than they are defined."""

    def __init__(self):
        super().__init__()
        self.later, self.first, self.apart = (nn.Linear(8, 8) for _ in range(3))
        self.embed = nn.Embedding(64, 8)

    def forward(self, input_ids, **_):
        x = self.embed(input_ids)
        y = self.first(x) + self.later(x)
        return self.apart(x.mul_(2)) + y  # the same storage, and other values


def test_a_new_architecture_needs_no_entry(shaken):
    config = TopicLoraConfig(r=2, num_experts=4, router="linear", router_scope="group",
                             target_modules=["later", "first", "apart"])  # fmt: skip
    model = get_peft_model(Odd().requires_grad_(False), config)
    assert model.peft_config["default"].router_families == [["first", "later"]]
    with record_routing(shaken(model)) as record, torch.no_grad():
        model(input_ids=torch.tensor([[5, 9]]))
    assert set(record.logits) == {"first", "apart"}
    assert torch.equal(record.gates["first"], record.gates["later"])


def test_a_model_that_runs_up_before_gate_shares_a_router(family_model, adapted, shaken):
    model = shaken(adapted(family_model("falcon_h1"), router="linear", router_scope="group",
                           target_modules=["gate_proj", "up_proj"]))  # fmt: skip
    with record_routing(model) as record:
        logits(model)
    assert {kind_of(name) for name in record.logits} == {"feed_forward.up_proj"}


def test_a_file_keeps_what_was_found_and_loads_without_a_trial(family_model, adapted, shaken, tmp_path, monkeypatch):
    model = shaken(adapted(family_model("recurrent_gemma"), router="linear", router_scope="group"))
    expected = logits(model)
    model.save_pretrained(tmp_path)
    assert OTHERWISE["recurrent_gemma"] in PeftConfig.from_pretrained(tmp_path).router_families
    monkeypatch.delattr("topiclora_cli.adapters.topiclora.model.same_input_families")
    assert torch.equal(logits(PeftModel.from_pretrained(family_model("recurrent_gemma"), tmp_path)), expected)


def test_a_file_without_the_key_goes_by_the_usual_names(family_model, adapted, shaken, tmp_path):
    model = shaken(adapted(family_model("llama"), router="linear", router_scope="group"))
    expected = logits(model)
    model.save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "router_families"}))
    loaded = PeftModel.from_pretrained(family_model("llama"), tmp_path)
    assert loaded.peft_config["default"].router_families == [list(family) for family in USUAL_FAMILIES]
    assert torch.equal(logits(loaded), expected)
    rewrite(tmp_path, router_families=None)
    assert torch.equal(logits(PeftModel.from_pretrained(family_model("llama"), tmp_path)), expected)


def test_a_second_adapter_tries_the_adapted_model(family_model, adapted, shaken):
    model = shaken(adapted(family_model("llama")))
    families = same_input_families(family_model("llama"))
    assert same_input_families(model.get_base_model()) == families


def test_a_model_that_cannot_be_tried_goes_by_the_usual_names():
    class Refuses(Odd):
        def forward(self, x):
            return self.first(x)

    assert same_input_families(Refuses()) is None


def test_the_trial_leaves_every_module_in_its_mode(family_model):
    model = family_model("llama").train()
    model.model.layers[0].eval()
    before = {name: module.training for name, module in model.named_modules()}
    same_input_families(model)
    assert {name: module.training for name, module in model.named_modules()} == before
