"""Interfering with routing: the rules of each way, nothing outside of the block, nothing at all where none is asked."""

import threading

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tests.adapters.helpers import TOKENS, logits
from topiclora_cli.adapters import PerftConfig, TopicLoraConfig, interfered_routing, record_routing
from topiclora_cli.adapters.interference import ByPrior, Shuffled, SwitchedOff, Uniform
from topiclora_cli.adapters.routers import ROUTERS
from topiclora_cli.adapters.selection import select_experts
from topiclora_cli.errors import TopicLoraError

OFF = SwitchedOff(frozenset({1}))
PRIOR = torch.tensor([[0.5, 0.1, 0.3, 0.1], [0.1, 0.2, 0.1, 0.6]])
WAYS = {"off": OFF, "uniform": Uniform(), "shuffled": Shuffled(), "prior": ByPrior(PRIOR)}
SETTINGS = {
    **{name: {"router": name, "shared_a": True} for name in ROUTERS},
    "top-2": {"top_k": 2},
    "top-1": {"top_k": 1},
    "all of four": {"top_k": 4, "gate_weights": "constant"},
    "top-p": {"top_p": 0.7},
    "prompt": {"top_k": 2, "granularity": "prompt", "router_scope": "block"},
    "sparse": {"top_k": 2, "r": 8, "kernel": "sparse"},
    "plain": {"top_k": 2, "kernel": "plain"},
    "ffn": {"router": "linear", "top_k": 2, "router_scope": "block", "mixing": "ffn"},
    "shared": {"router": "linear", "top_k": 2, "shared_experts": 1, "shared_gate": "softmax"},
}


@pytest.fixture
def mixture(family_model, adapted, shaken):
    return lambda **settings: shaken(adapted(family_model("llama"), **settings))


def recorded(model, way=None):
    with record_routing(model) as record, interfered_routing(model, way):
        found = logits(model)
    return found, record


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_nothing_stays_of_it_and_nothing_happens_without_it(settings, mixture):
    model = mixture(**settings)
    before = logits(model)
    assert torch.equal(recorded(model)[0], before)
    for way in WAYS.values():
        changed, record = recorded(model, way)
        assert changed.isfinite().all()
        assert all(gates.isfinite().all() for gates in record.gates.values())
        assert torch.equal(logits(model), before)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_an_expert_that_is_off_has_no_gate_and_the_others_have_its_place(settings, mixture):
    model = mixture(**settings)
    _, own = recorded(model)
    _, record = recorded(model, OFF)
    first = next(iter(record.gates))  # what it reads is the same
    gates, before = record.gates[first], own.gates[first]
    assert all((each[..., 1] == 0).all() for each in record.gates.values())
    assert torch.equal(record.logits[first], own.logits[first])
    slots = (before > 0).sum(-1).clamp(max=3)
    if settings.get("router") not in ("threshold", "sparsegen") and "top_p" not in settings:
        assert torch.equal((gates > 0).sum(-1), slots)


@pytest.mark.parametrize(
    "choice", [{"top_k": 2}, {"top_k": 1}, {"top_p": 0.7}, {"top_k": 2, "gate_weights": "probability"}, {}], ids=str
)
def test_switching_off_is_routing_among_the_others(choice, mixture):
    _, record = recorded(mixture(**choice), OFF)
    first = next(iter(record.gates))
    rest = [0, 2, 3]
    expected = select_experts(record.logits[first][..., rest], **choice)
    torch.testing.assert_close(record.gates[first][..., rest], expected)


def test_uniform_gates_are_the_tokens_mean_gate_in_every_kernel(mixture):
    found = []
    for kernel in ("plain", "dense", "sparse"):
        model = mixture(top_k=2, r=8, kernel=kernel)
        changed, record = recorded(model, Uniform())
        for gates in record.gates.values():
            torch.testing.assert_close(gates, torch.full_like(gates, 0.25))
        found.append(changed)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


def test_a_shuffle_gives_every_gate_to_another_expert_the_same_at_every_call(mixture):
    model = mixture(top_k=2)
    _, own = recorded(model)
    once, record = recorded(model, Shuffled())
    assert torch.equal(recorded(model, Shuffled())[0], once)
    assert not torch.equal(recorded(model, Shuffled(seed=1))[0], once)
    first = next(iter(record.gates))
    assert torch.equal(record.gates[first].sort(-1).values, own.gates[first].sort(-1).values)
    assert not ((record.gates[first] > 0) & (record.gates[first] == own.gates[first])).any()


def test_the_prior_of_a_row_chooses_for_all_of_its_tokens(mixture):
    _, record = recorded(mixture(top_k=2), ByPrior(PRIOR))
    expected = select_experts(PRIOR.log(), top_k=2)[:, None].expand(-1, TOKENS.shape[1], -1)
    for gates in record.gates.values():
        torch.testing.assert_close(gates, expected)


def test_layers_that_read_their_tokens_in_one_row_have_their_rows_prior(family_model, adapted, shaken):
    model = shaken(adapted(family_model("qwen2_moe"), router="linear", target_modules="all-linear"))
    with record_routing(model) as record, interfered_routing(model, ByPrior(PRIOR)):
        logits(model)
    record.arrange(TOKENS.shape)
    for gates in record.gates.values():
        torch.testing.assert_close(gates, PRIOR[:, None].expand_as(gates))


@pytest.mark.parametrize(
    "settings", [{}, {"router_weight_source": "pretrained"}, {"kernel": "sparse", "r": 4}], ids=str
)
def test_routed_perft(settings, family_model, shaken):
    settings = {"variant": "routed", "r": 2, "num_adapters": 4, "top_k": 2, "task_type": "CAUSAL_LM", **settings}
    model = shaken(get_peft_model(family_model("olmoe"), PerftConfig(**settings)))
    before, own = recorded(model)
    first = next(iter(own.gates))
    for name, way in WAYS.items():
        changed, record = recorded(model, way)
        assert changed.isfinite().all()
        assert not torch.equal(changed, before)
        if name == "off":
            assert (record.gates[first][..., 1] == 0).all()
            assert torch.equal((record.gates[first] > 0).sum(-1), (own.gates[first] > 0).sum(-1))
        if name == "uniform":
            spread = own.gates[first].sum(-1, keepdim=True).expand_as(own.gates[first]) / 4
            assert (record.gates[first] > 0).all()
            if "router_weight_source" in settings:
                torch.testing.assert_close(record.gates[first], spread)
    assert torch.equal(logits(model), before)


def test_other_threads_run_as_ever_and_the_inner_block_counts(mixture):
    model, found = mixture(top_k=2), []
    before = logits(model)
    with interfered_routing(model, OFF):
        thread = threading.Thread(target=lambda: found.append(logits(model)))
        thread.start()
        thread.join()
        off = logits(model)
        with interfered_routing(model, None):
            inner = logits(model)
        assert torch.equal(logits(model), off)
    assert torch.equal(found[0], before)
    assert torch.equal(inner, before)
    assert not torch.equal(off, before)


def test_what_cannot_be_interfered_with_is_said(family_model, mixture):
    model = mixture(top_k=2)
    for way, words in (
        (SwitchedOff(frozenset({4})), r"No router has the experts \[4\].*0 to 3"),
        (SwitchedOff(frozenset(range(4))), "All 4 experts of .* would be off"),
        (ByPrior(PRIOR[:, :3]), "The prior is over 3 experts, but the router of .* has 4"),
    ):
        with pytest.raises(TopicLoraError, match=words), interfered_routing(model, way):
            pass
    lora = get_peft_model(family_model("llama"), LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(TopicLoraError, match="no routers to interfere with"), interfered_routing(lora, OFF):
        pass
    one = get_peft_model(family_model("llama"), TopicLoraConfig(r=2, num_experts=1, target_modules=["q_proj"]))
    with pytest.raises(TopicLoraError, match="no routers"), interfered_routing(one, OFF):
        pass
