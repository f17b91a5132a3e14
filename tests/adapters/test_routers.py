"""Routers: an even start at any width, float32 products under every kernel, and the published formulas, naively."""

import copy
import json
import math

import pytest
import torch
import torch.nn.functional as F
from peft import PeftConfig, get_peft_model
from torch import nn

from topiclora_cli.adapters import TopicLoraConfig, fused, record_routing
from topiclora_cli.adapters.keys import simplex
from topiclora_cli.adapters.precision import precise_product
from topiclora_cli.adapters.routers import (
    ROUTERS,
    CosineRouter,
    GraphRouter,
    HierarchicalRouter,
    LinearRouter,
    RouterSettings,
    SparsegenRouter,
    ThresholdRouter,
    TopicRouter,
    no_pooling,
)
from topiclora_cli.adapters.routers.graph import random_expert_graph
from topiclora_cli.errors import TopicLoraError

E, R, D = 8, 8, 64


@pytest.fixture(autouse=True)
def _same_numbers():
    torch.manual_seed(0)


def pooled(scores):
    """The mean of the whole prompt, for every token of it."""
    return scores.mean(-2, keepdim=True).expand_as(scores)


def start(kind, width, **settings):
    settings = RouterSettings(width, E, **settings)
    return TopicRouter(settings, simplex(E)) if kind is TopicRouter else kind(settings)


@pytest.mark.parametrize("width", [64, 4096])
@pytest.mark.parametrize(("kind", "largest"), [(TopicRouter, 0.17), (LinearRouter, 0.25), (HierarchicalRouter, 0.25)])
def test_gates_start_about_even_at_any_width(kind, largest, width):
    router = start(kind, width)
    with torch.no_grad():
        gates = router(torch.randn(2000, width), no_pooling).gates
    assert gates.max(-1).values.mean().item() == pytest.approx(largest, abs=0.03)


def test_a_normal_start_is_uneven_in_wide_models():
    with torch.no_grad():
        gates = start(LinearRouter, 4096, init="normal")(torch.randn(2000, 4096), no_pooling).gates
    assert gates.max(-1).values.mean() > 0.4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_precise_product_is_float32s_and_so_are_its_gradients(dtype):
    x, weight = torch.randn(2, 3, D).to(dtype).requires_grad_(), torch.randn(E, D, requires_grad=True)
    upstream = torch.randn(2, 3, E)
    with torch.autocast("cpu", torch.bfloat16):
        product = precise_product(x, weight)
        ours = torch.autograd.grad((product * upstream).sum(), (x, weight))
    wide = x.detach().float().requires_grad_()
    expected = F.linear(wide, weight)
    theirs = torch.autograd.grad((expected * upstream).sum(), (wide, weight))
    assert torch.equal(product, expected)
    torch.testing.assert_close(ours[0], theirs[0].to(dtype))
    torch.testing.assert_close(ours[1], theirs[1])


class Holder(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(D, 16)

    def forward(self, x):
        return self.proj(x)


def mixture(**settings):
    settings = {"r": R, "num_experts": E, "target_modules": ["proj"], "shared_a": True, **settings}
    return get_peft_model(Holder(), TopicLoraConfig(**settings))


CHOOSES_ITSELF = ("threshold", "sparsegen")
SCORING = [
    (kind, kernel)
    for kind in ROUTERS
    for kernel in ("plain", "dense", "sparse")
    if kind not in ("uniform", "static", "hierarchical") and (kind not in CHOOSES_ITSELF or kernel != "sparse")
]


@pytest.mark.parametrize(("kind", "kernel"), SCORING)
@pytest.mark.parametrize("source", [torch.float32, torch.bfloat16])
def test_under_autocast_every_router_scores_in_float32(kind, kernel, source):
    top_k = None if kind in CHOOSES_ITSELF else 2
    model = mixture(router=kind, kernel=kernel, top_k=top_k)
    x = torch.randn(2, 40, D).to(source).requires_grad_()
    router = model.base_model.model.proj.topiclora_router["default"]
    with torch.no_grad():
        read = x.float()
        if kind == "cosine":
            read = read @ model.base_model.model.proj.topiclora_A["default"].weight[0].T
        expected = router(read, no_pooling)
    with record_routing(model) as record, torch.autocast("cpu", torch.bfloat16):
        model(x).float().sum().backward()
    torch.testing.assert_close(record.logits["proj"], expected.logits, atol=1e-5, rtol=1e-5)
    assert record.logits["proj"].dtype == torch.float32
    assert torch.equal(record.gates["proj"] > 0, expected.gates > 0)


def test_a_router_on_a_bfloat16_base_scores_in_float32():
    model = mixture(router="linear", top_k=2).to(torch.bfloat16)
    model.base_model.model.proj.topiclora_router.float()
    x = torch.randn(2, 40, D).bfloat16()
    with record_routing(model) as record, torch.no_grad():
        model(x)
    weight = model.base_model.model.proj.topiclora_router["default"].weight
    torch.testing.assert_close(record.logits["proj"], x.float() @ weight.T, atol=1e-5, rtol=1e-5)


def test_the_projection_rides_with_a_in_float32_alone(monkeypatch):
    rode = []
    ride = fused._Project.apply
    monkeypatch.setattr(fused._Project, "apply", lambda *arguments: rode.append(1) or ride(*arguments))
    model, x = mixture(router="linear", kernel="dense"), torch.randn(2, 3, D)
    model(x)
    assert rode == [1]
    with torch.autocast("cpu", torch.bfloat16):
        model(x)
    assert rode == [1]


def test_router_dropout_is_on_what_the_router_reads_and_in_training_alone():
    model = mixture(router="linear", router_dropout=0.5, kernel="dense")
    weight = model.base_model.model.proj.topiclora_router["default"].weight
    x = torch.randn(1, 4000, D)

    def scores():
        with record_routing(model) as record, torch.no_grad():
            model(x)
        return record.logits["proj"]

    assert not torch.equal(scores(), scores())
    torch.testing.assert_close(scores().mean(1), (x @ weight.T).mean(1), atol=0.06, rtol=0)
    model.eval()
    torch.testing.assert_close(scores(), x @ weight.T)


# The published formulas, each written out for one token at a time.


def test_hmora_mixes_probabilities_and_softmaxes_the_k_largest():
    router = HierarchicalRouter(RouterSettings(D, E, top_k=2, depth=0.4))
    x = torch.randn(1, 5, D)
    with torch.no_grad():
        decision = router(x, pooled)
        token = x @ router.token_weight.T + router.token_bias
        task = x.mean(1) @ router.task_weight.T + router.task_bias
        share = torch.sigmoid(torch.tensor(4 * 0.4 - 2))
        for position in range(5):
            mixed = (1 - share) * token[0, position].softmax(-1) + share * task[0].softmax(-1)
            gates = torch.zeros(E)
            first, second = mixed.argsort(descending=True)[:2]
            both = math.exp(mixed[first]) + math.exp(mixed[second])
            gates[first], gates[second] = math.exp(mixed[first]) / both, math.exp(mixed[second]) / both
            torch.testing.assert_close(decision.gates[0, position], gates)
            torch.testing.assert_close(decision.logits[0, position].softmax(-1), mixed)
    torch.testing.assert_close(decision.token, token)
    torch.testing.assert_close(decision.task[:, -1], task)


@pytest.mark.parametrize(
    ("depth", "parts"),
    [
        (0.0, {"token_weight", "token_bias"}),
        (0.15, {"token_weight", "token_bias"}),
        (0.16, {"token_weight", "token_bias", "task_weight", "task_bias", "alpha"}),
        (0.84, {"token_weight", "token_bias", "task_weight", "task_bias", "alpha"}),
        (0.85, {"task_weight", "task_bias"}),
        (1.0, {"task_weight", "task_bias"}),
    ],
)
def test_hmora_has_one_router_alone_in_the_lowest_and_highest_layers(depth, parts):
    router = HierarchicalRouter(RouterSettings(D, E, top_k=2, depth=depth))
    assert set(dict(router.named_parameters())) == parts
    x = torch.randn(1, 5, D)
    decision = router(x, pooled)
    assert (decision.token is not None, decision.task is not None) == ("token_weight" in parts, "task_weight" in parts)
    if "task_weight" not in parts:
        torch.testing.assert_close(decision.logits.softmax(-1), decision.token.softmax(-1))
    if "token_weight" not in parts:
        torch.testing.assert_close(decision.logits.softmax(-1), decision.task.softmax(-1))


def test_the_two_parts_of_a_hierarchical_router_are_recorded(tiny_model):
    config = TopicLoraConfig(r=2, num_experts=4, router="hierarchical", target_modules=["q_proj"])
    model = get_peft_model(tiny_model, config)
    with record_routing(model) as record:
        model(input_ids=torch.tensor([[5, 9, 12, 7]]))
    first, last = record.logits
    # Two layers: the lower has the token's router alone, the upper the task's.
    assert (list(record.token_logits), list(record.task_logits)) == ([first], [last])
    assert record.task_logits[last].shape == (1, 4, 4)


def test_samora_compares_directions_in_rank_space():
    router, hidden = CosineRouter(RouterSettings(R, 3, temperature=0.8)), torch.randn(6, R)
    with torch.no_grad():
        gates = router(hidden, no_pooling).gates
        for row in range(6):
            cosines = torch.stack([hidden[row] @ key / (hidden[row].norm() * key.norm()) for key in router.keys])
            torch.testing.assert_close(gates[row], (cosines / 0.8).softmax(-1))


def nearest_on_the_simplex(scores, sharpness):
    """argmin ||p - scores||^2 - lambda ||p||^2, by bisection on the tau of max(0, (u - tau) / (1 - lambda))."""
    low, high = scores.min() - sharpness, scores.max()
    for _ in range(100):
        tau = (low + high) / 2
        total = ((scores - tau) / sharpness).clamp_min(0).sum()
        low, high = (tau, high) if total > 1 else (low, tau)
    return ((scores - tau) / sharpness).clamp_min(0)


def test_ldmole_projects_onto_the_simplex_with_a_lambda_of_its_own_for_each_token():
    router = SparsegenRouter(RouterSettings(D, E, width=16)).double()
    with torch.no_grad():
        router.hidden_bias.fill_(0.1)  # or every hidden unit would be idle
        router.out_weight.mul_(20)
        x = 3 * torch.randn(6, D, dtype=torch.float64)
        decision, sharpnesses = router(x, no_pooling), set()
        for row in range(6):
            hidden = (router.hidden_weight @ x[row] + router.hidden_bias).clamp_min(0)
            out = hidden @ router.out_weight[0] + router.out_bias[0]
            lam = math.log(1 / (1 + math.exp(-out))) + (1 - 0.01)
            torch.testing.assert_close(decision.logits[row], router.weight @ x[row])
            expected = nearest_on_the_simplex(router.weight @ x[row], 1 - lam)
            torch.testing.assert_close(decision.gates[row], expected, atol=1e-9, rtol=0)
            sharpnesses.add(round(lam, 6))
    assert len(sharpnesses) > 1


def test_ldmole_starts_at_a_lambda_of_minus_1_59_with_five_of_eight_experts():
    router = SparsegenRouter(RouterSettings(4096, E, width=32))
    with torch.no_grad():
        x = torch.randn(500, 4096)
        out = router.read(precise_product(x, router.projection()))[..., -1]
        gates = router(x, no_pooling).gates
    assert (F.logsigmoid(out) + 0.99).mean().item() == pytest.approx(-1.59, abs=0.02)
    assert (gates > 0).sum(-1).float().mean().item() == pytest.approx(5.2, abs=0.3)


def test_adamole_cuts_at_a_learned_share_of_one_over_e():
    router, x = ThresholdRouter(RouterSettings(D, E)), torch.randn(6, D)
    with torch.no_grad():
        gates = router(x, no_pooling).gates
        for row in range(6):
            p = (router.weight @ x[row]).softmax(-1)
            cut = torch.sigmoid(router.threshold_weight[0] @ x[row] + router.threshold_bias[0]) / E
            kept = (p - cut).clamp_min(0)
            torch.testing.assert_close(gates[row], kept / kept.sum())


def test_gmoe_convolves_twice_over_the_experts_and_the_token():
    router, x = GraphRouter(RouterSettings(D, E, top_k=2, width=16)), torch.randn(6, D)
    edges = router.adjacency > 0
    assert edges[-1].all()  # the token is joined to all
    assert edges.diagonal().all()
    degree = edges.sum(-1)
    with torch.no_grad():
        decision = router(x, no_pooling)
        for row in range(6):
            nodes = [*router.experts, router.token_weight @ x[row]]

            def convolved(values, node):
                return sum(
                    values[other] / math.sqrt(degree[node] * degree[other])
                    for other in range(E + 1)
                    if edges[node, other]
                )

            hidden = [convolved(nodes, node).clamp_min(0) for node in range(E + 1)]
            logits = torch.stack([convolved([h @ router.out_weight for h in hidden], node) for node in range(E)])
            torch.testing.assert_close(decision.logits[row], logits, atol=1e-5, rtol=1e-5)
            kept = logits.topk(2)
            torch.testing.assert_close(decision.gates[row, kept.indices], kept.values.softmax(-1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("experts", [2, 3, 4, 8, 16, 64])
def test_gmoes_random_graph_tells_every_two_experts_apart(experts):
    adjacency = random_expert_graph(experts, density=0.1)
    assert len((adjacency[:-1] > 0).unique(dim=0)) == experts
    joined = ((adjacency[:-1, :-1] > 0).sum() - experts) / max(1, experts * (experts - 1))
    assert joined <= 0.2


# Adapters saved before the routers' form was noted.


def saved_before(tmp_path, **settings):
    """The configuration that peft reads from a file without the key."""
    config = TopicLoraConfig(r=2, num_experts=E, target_modules=["proj"], **settings)
    config.save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    values = json.loads(file.read_text())
    assert values.pop("router_version") == 2
    for key in ("router_init", "router_dropout", "expert_dropout"):
        del values[key]
    file.write_text(json.dumps(values))
    return PeftConfig.from_pretrained(tmp_path)


def test_what_is_saved_says_the_form_of_its_router(tmp_path):
    TopicLoraConfig(router="sparsegen", target_modules=["proj"]).save_pretrained(tmp_path)
    assert PeftConfig.from_pretrained(tmp_path).router_version == 2
    with pytest.raises(TopicLoraError, match="newer than this topiclora"):
        TopicLoraConfig(router_version=9)


def test_an_old_hierarchical_router_is_what_it_was(tmp_path):
    config = saved_before(tmp_path, router="hierarchical", top_k=2)
    assert config.router_version == 1
    layer = get_peft_model(Holder(), config).base_model.model.proj
    router = layer.topiclora_router["default"]
    assert set(dict(router.named_parameters())) == {"token_weight", "task_weight", "alpha"}
    x = torch.randn(1, 5, D)
    share = router.alpha.sigmoid()
    mixed = (1 - share) * (x @ router.token_weight.T).softmax(-1)
    mixed = mixed + share * (x @ router.task_weight.T).mean(1, keepdim=True).softmax(-1)
    values, indices = mixed.topk(2, -1)
    expected = torch.zeros_like(mixed).scatter(-1, indices, values / values.sum(-1, keepdim=True))
    torch.testing.assert_close(router(x, pooled).gates, expected)


def test_an_old_sparsegen_router_is_what_it_was(tmp_path):
    config = saved_before(tmp_path, router="sparsegen", router_width=4)
    router = get_peft_model(Holder(), config).base_model.model.proj.topiclora_router["default"]
    x = torch.randn(3, D)
    with torch.no_grad():
        gates = router(x, no_pooling).gates
        for row in range(3):
            hidden = F.gelu(router.hidden_weight @ x[row] + router.hidden_bias)
            sharpness = F.softplus(router.out_weight[0] @ hidden + router.out_bias[0]) + 1e-3
            expected = nearest_on_the_simplex(router.weight @ x[row], sharpness)
            torch.testing.assert_close(gates[row], expected, atol=1e-5, rtol=0)


def test_a_copied_configuration_keeps_the_form():
    config = TopicLoraConfig(router="hierarchical", router_version=1, target_modules=["proj"])
    assert copy.deepcopy(config).router_version == 1
    assert config.at("proj", 0).router_version == 1
