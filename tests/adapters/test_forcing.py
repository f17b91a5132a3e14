"""Prior forcing: p^(1 - eta) pi^eta in the gates, the router's own in the logits, and nothing of it outside."""

import threading

import pytest
import torch
from peft import get_peft_model

from tests.adapters.helpers import TOKENS, assert_same_gradients, gradients, logits
from topiclora_cli.adapters import PerftConfig, TopicLoraConfig, forced_routing, record_routing
from topiclora_cli.adapters.forcing import SMOOTHING, choosing_routers
from topiclora_cli.adapters.routers import ROUTERS
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe.meaning import _NOT_FORCED

CHOICES = {
    **{"top-2": {"top_k": 2}, "top-1": {"top_k": 1}, "top-p": {"top_p": 0.7}, "dense": {}},
    "by probability": {"top_k": 2, "gate_weights": "probability"},
    "constant": {"top_k": 2, "gate_weights": "constant"},
}
BATCH, LENGTH = TOKENS.shape


def priors(experts=4, seed=0, batch=BATCH, length=LENGTH):
    """One prior for each row, sharp, with a zero in it, at each of the row's tokens."""
    drawn = torch.softmax(3 * torch.randn(batch, experts, generator=torch.Generator().manual_seed(seed)), -1)
    drawn[0, 0] = 0
    return (drawn / drawn.sum(-1, keepdim=True))[:, None].expand(-1, length, -1).double()


def forced(model, eta, prior=None, tokens=TOKENS, **settings):
    prior = priors(batch=len(tokens), length=tokens.shape[1]) if prior is None else prior
    return forced_routing(model, prior, torch.full(tokens.shape, float(eta)), **settings)


def naive(x, layer, prior, eta, top_k=None, top_p=None, gate_weights="renormalised"):
    """The layer's output for x (B, S, d), token by token and expert by expert."""
    lora_a, lora_b = layer.factors("default")
    router, config = layer.topiclora_router["default"], layer.topiclora_config["default"]
    rows = []
    for example in range(len(x)):
        for token, pi in zip(x[example], prior[example], strict=True):
            scores = router.keys @ (router.weight @ token) * router.scale + router.bias
            own = torch.softmax(scores, 0)
            pi = (1 - SMOOTHING) * pi + SMOOTHING / len(pi)
            p = own ** (1 - eta[example]) * pi ** eta[example]
            p = p / p.sum()
            order = p.argsort(descending=True).tolist()
            if top_p is not None:
                kept, mass = [], 0.0
                for expert in order:
                    if mass < top_p:
                        kept.append(expert)
                    mass += p[expert].item()
                gates = {expert: p[expert] for expert in kept}
            elif gate_weights == "probability":
                gates = {expert: p[expert] for expert in order[:top_k]}
            elif gate_weights == "constant":
                gates = {expert: 1 / top_k + p[expert] - p[expert].detach() for expert in order[:top_k]}
            elif top_k == 1:
                gates = {order[0]: p[order[0]]}
            else:
                kept = order[:top_k]
                gates = {expert: p[expert] / sum(p[e] for e in kept) for expert in kept}
            out = layer.base_layer(token)
            for expert, gate in gates.items():
                out = out + config.scale * gate * (lora_a[expert] @ token) @ lora_b[expert]
            rows.append(out)
    return torch.stack(rows).view(*x.shape[:2], -1)


@pytest.fixture
def mixture(family_model, adapted, shaken):
    """A function: settings of a mixture -> a tiny model with it, in float64 and training."""

    def build(**settings):
        return shaken(adapted(family_model("llama"), **settings)).double().train()

    return build


@pytest.mark.parametrize("eta", [[0.0, 0.0], [0.3, 0.3], [1.0, 1.0], [0.0, 0.8]], ids=str)
@pytest.mark.parametrize("kernel", ["plain", "dense"])
@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES.keys())
def test_it_is_the_loop_over_tokens_and_experts(choice, kernel, eta, mixture):
    model = mixture(kernel=kernel, target_modules=["q_proj"], **choice)
    layer = next(m for name, m in model.named_modules() if name.endswith("layers.0.self_attn.q_proj"))
    x = torch.randn(BATCH, LENGTH, layer.in_features, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weights = torch.randn(BATCH, LENGTH, layer.out_features, dtype=torch.float64)
    share = torch.tensor(eta, dtype=torch.float64)
    found = []
    for forcing in (True, False):
        model.zero_grad()
        given = x.clone().requires_grad_()
        if forcing:
            with forced_routing(model, priors(), share[:, None].expand(-1, LENGTH)):
                out = layer(given)
        else:
            out = naive(given, layer, priors(), share, **choice)
        (out * weights).sum().backward()
        found.append({"out": out.detach(), "x": given.grad, **gradients(layer)})
    ours, loop = found
    assert ours.keys() == loop.keys()
    for name, expected in loop.items():
        torch.testing.assert_close(ours[name], expected, atol=1e-10, rtol=1e-10, msg=name)


def test_outside_of_the_block_nothing_is_forced(mixture):
    model = mixture(top_k=2)
    plain = logits(model)
    with forced(model, 0):
        torch.testing.assert_close(logits(model), plain)
    with forced(model, 0.5):
        assert not torch.allclose(logits(model), plain)
    assert torch.equal(logits(model), plain)


@pytest.mark.parametrize("shared_gate", ["one", "softmax"])
def test_shared_experts_keep_their_gates(shared_gate, mixture):
    model = mixture(router="linear", shared_experts=2, shared_gate=shared_gate, target_modules=["q_proj"])
    with record_routing(model) as own:
        logits(model)
    with record_routing(model) as record, forced(model, 0.4):
        logits(model)
    name = choosing_routers(model)[0][0]
    torch.testing.assert_close(record.shared_gates[name], own.shared_gates[name])
    pi = (1 - SMOOTHING) * priors() + SMOOTHING / 4
    p = own.logits[name].softmax(-1) ** 0.6 * pi**0.4
    routed = record.gates[name] / record.gates[name].sum(-1, keepdim=True)
    torch.testing.assert_close(routed, p / p.sum(-1, keepdim=True))


def test_losses_see_the_router_s_own_logits(mixture):
    model = mixture(top_k=2, target_modules=["q_proj"])
    first = choosing_routers(model)[0][0]
    with record_routing(model) as own:
        logits(model)
    with record_routing(model) as record, forced(model, 1):
        logits(model)
    assert torch.equal(record.logits[first], own.logits[first])
    chosen = record.gates[first].topk(2).indices.sort(-1).values
    assert torch.equal(chosen, priors().topk(2).indices.sort(-1).values)


def test_a_zero_in_the_prior_shuts_no_expert(mixture):
    model = mixture(target_modules=["q_proj"])
    with record_routing(model) as record, forced(model, 1):
        logits(model)
    assert all((gates > 0).all() for gates in record.gates.values())


@pytest.mark.parametrize("router", ROUTERS)
def test_a_router_with_a_rule_of_its_own_is_left_alone(router, mixture):
    model = mixture(router=router, shared_a=True)
    plain = logits(model)
    with forced(model, 0.5):
        same = torch.equal(logits(model), plain)
    assert same is (router in _NOT_FORCED) is (not choosing_routers(model))


@pytest.mark.parametrize(
    "settings",
    [
        {"router_scope": "layer", "top_k": 2},
        {"granularity": "prompt", "router_scope": "block"},
        {"router": "linear", "top_k": 2, "router_scope": "block", "mixing": "ffn"},
        {"kernel": "sparse", "top_k": 2, "r": 8},
        {"shared_a": True, "top_k": 2},
    ],
    ids=str,
)
def test_scopes_pooling_and_kernels(settings, mixture):
    model = mixture(**settings)
    with record_routing(model) as own:
        logits(model)
    with record_routing(model) as record, forced(model, 0.4):
        logits(model)
    pi = (1 - SMOOTHING) * priors() + SMOOTHING / 4
    name = next(iter(record.logits))
    p = own.logits[name].softmax(-1) ** 0.6 * pi**0.4
    p = p / p.sum(-1, keepdim=True)
    if settings.get("top_k"):
        p = torch.zeros_like(p).scatter(-1, p.topk(2).indices, p.topk(2).values)
    torch.testing.assert_close(record.gates[name], p / p.sum(-1, keepdim=True))


def test_layers_that_read_their_tokens_in_one_row(family_model, adapted, shaken):
    model = shaken(adapted(family_model("qwen2_moe"), router="linear", target_modules="all-linear"))
    with record_routing(model) as own:
        logits(model)
    flat = [name for name, values in own.logits.items() if values.shape[:-1] != TOKENS.shape]
    assert flat
    with record_routing(model) as record, forced(model, 1, priors().float()):
        logits(model)
    record.arrange(TOKENS.shape)
    smoothed = (1 - SMOOTHING) * priors().float() + SMOOTHING / 4
    for gates in record.gates.values():
        torch.testing.assert_close(gates, smoothed)


def test_layers_can_be_left_out(mixture):
    model = mixture(target_modules=["q_proj"])
    names = [name for name, _ in choosing_routers(model)]
    assert len(names) == 2
    with record_routing(model) as own:
        logits(model)
    with record_routing(model) as record, forced(model, 1, layers=names[1:]):
        logits(model)
    assert torch.equal(record.gates[names[0]], own.gates[names[0]])
    assert not torch.allclose(record.gates[names[1]], own.gates[names[1]])


def test_nothing_looks_ahead(mixture):
    model = mixture(top_k=2)
    changed = TOKENS.clone()
    changed[:, -1] += 1
    with forced(model, 0.5):
        torch.testing.assert_close(logits(model)[:, :-1], logits(model, changed)[:, :-1], atol=0, rtol=0)


@pytest.mark.parametrize("router", ["linear", "topic"])
def test_routed_perft(router, family_model, shaken):
    config = PerftConfig(variant="routed", r=2, num_adapters=4, top_k=2, router=router, task_type="CAUSAL_LM")
    model = shaken(get_peft_model(family_model("olmoe"), config)).train()
    with record_routing(model) as own:
        logits(model)
    with record_routing(model) as record, forced(model, 0.4):
        logits(model)
    name = next(iter(record.logits))
    pi = (1 - SMOOTHING) * priors().float() + SMOOTHING / 4
    shape = own.logits[name].shape
    p = (own.logits[name].softmax(-1) ** 0.6 * pi.reshape(shape) ** 0.4).topk(2)
    assert torch.equal(record.gates[name].topk(2).indices, p.indices)
    if config.renormalize == "on":
        torch.testing.assert_close(record.gates[name].topk(2).values, p.values / p.values.sum(-1, keepdim=True))


def test_checkpointing_runs_layers_again_with_the_prior_that_they_ran_with(mixture):
    model = mixture(top_k=2)
    model.enable_input_require_grads()

    def run():
        model.zero_grad()
        with forced(model, 0.5):
            return model(input_ids=TOKENS, labels=TOKENS).loss

    run().backward()
    expected = gradients(model)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    loss = run()
    with forced(model, 0.9, priors(seed=7)):  # another call in between
        model(input_ids=TOKENS)
    loss.backward(retain_graph=True)
    assert_same_gradients(gradients(model), expected, atol=1e-10)
    loss.backward()
    assert_same_gradients(gradients(model), {name: 2 * value for name, value in expected.items()}, atol=1e-10)
    loss = run()
    with forced(model, 0.9, priors(seed=7)):  # within another block, and in another thread, as on a GPU
        thread = threading.Thread(target=loss.backward)
        thread.start()
        thread.join()
    assert_same_gradients(gradients(model), expected, atol=1e-10)
    plain = mixture(top_k=2)
    model.zero_grad()
    for each in (plain, model):
        each(input_ids=TOKENS, labels=TOKENS).loss.backward()
    assert_same_gradients(gradients(model), gradients(plain), atol=1e-10)


def test_reentrant_checkpointing_is_refused(mixture):
    model = mixture(top_k=2)
    model.gradient_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(TopicLoraError, match="use_reentrant=True runs layers again without their prior"):
        forced(model, 0.5).__enter__()


def test_threads_have_priors_of_their_own(mixture):
    model, found = mixture(top_k=2), {}
    alone = {}
    for seed in (1, 2, None):
        with forced(model, 0.5 if seed else 0, priors(seed=seed or 0)):
            alone[seed] = logits(model)
    barrier = threading.Barrier(3)

    def meet(*_):
        barrier.wait(60)

    hook = model.get_base_model().model.layers[1].register_forward_pre_hook(meet)

    def run(seed):
        if seed is None:
            found[seed] = logits(model)
            return
        with forced(model, 0.5, priors(seed=seed)):
            found[seed] = logits(model)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in (1, 2, None)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    hook.remove()
    for seed, expected in alone.items():
        assert torch.equal(found[seed], expected)


def test_the_active_adapter_alone_is_forced(mixture):
    model = mixture(top_k=2, target_modules=["q_proj"])
    other = TopicLoraConfig(r=2, num_experts=3, target_modules=["k_proj"], task_type="CAUSAL_LM")
    model.add_adapter("other", other)
    with forced(model, 0.5):
        logits(model)
    model.set_adapter("other")
    with pytest.raises(TopicLoraError, match=r"The prior is over 4 experts, but the router of .*k_proj has 3"):
        forced(model, 0.5).__enter__()
    with forced(model, 0.5, priors(3)):
        logits(model)


def test_other_tokens_than_the_prior_s_are_an_error(mixture):
    model = mixture(target_modules=["q_proj"])
    with (
        forced(model, 0.5),
        pytest.raises(TopicLoraError, match=r"q_proj: router reads \(2, 4\) rows"),
    ):
        logits(model, TOKENS[:, :4])


@pytest.mark.slow
def test_compiled_models_see_the_prior_and_its_absence(family_model, adapted, shaken):
    torch._dynamo.reset()
    model = shaken(adapted(family_model("llama", num_hidden_layers=1), top_k=2, target_modules=["q_proj", "up_proj"]))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for eta, seed in ((None, 0), (0.5, 1), (0.2, 2), (None, 0)):
        each = []
        for run in (model, compiled):
            with torch.no_grad(), forced(model, eta or 0, priors(seed=seed).float()):
                each.append(run(input_ids=TOKENS).logits)
        torch.testing.assert_close(*each)
    torch._dynamo.reset()
