"""The newest expert alone: it trains while all else stands still, and is chosen where its own tokens are."""

import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.adapters.helpers import TOKENS
from tests.conftest import shaken
from topiclora_cli.adapters import TopicLoraConfig
from topiclora_cli.adapters.fisher import Moments, discriminant
from topiclora_cli.adapters.grow import with_expert
from topiclora_cli.adapters.newest import STRAY, NewestExpert

E = 4
VECTORS = F.normalize(torch.randn(E + 1, 12, generator=torch.Generator().manual_seed(0)), dim=1)
FILE = "adapter_model.safetensors"


@pytest.fixture
def grown(tiny_model, tiny_model_dir, tmp_path):
    def make(**changes):
        settings = {"r": 2, "num_experts": E, "top_k": 2, "target_modules": ["q_proj", "k_proj", "down_proj"]}
        config = TopicLoraConfig(**{**settings, "anchors": VECTORS[:-1].tolist(), **changes})
        model = shaken(get_peft_model(tiny_model, config))
        model.save_pretrained(tmp_path)
        tensors, larger = with_expert(load_file(tmp_path / FILE), model.peft_config["default"], VECTORS)
        save_file(tensors, tmp_path / FILE, metadata={"format": "pt"})
        larger.save_pretrained(str(tmp_path))
        base = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
        return PeftModel.from_pretrained(base, tmp_path, is_trainable=True)

    return make


def batches(low, high, seed, rows=64, width=12):
    """Tokens of one range, left-padded."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(low, high, (rows, width), generator=generator)
    mask = torch.ones_like(ids)
    mask[::2, :3] = 0
    return [{"input_ids": ids, "attention_mask": mask, "prompt_mask": mask.float()}]


def step(model, weight_decay=0.0, steps=3):
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.05, weight_decay=weight_decay)
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize(
    "changes", [{}, {"shared_a": True}, {"shared_experts": 1}, {"router_scope": "block"}, {"train_keys": True}]
)
def test_nothing_trains_but_the_newest_expert_and_its_rows(changes, decay, grown):
    model = grown(**changes)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with NewestExpert(model).alone_trains():
        step(model, weight_decay=decay)
    moved = set()
    for name, tensor in model.state_dict().items():
        if torch.equal(tensor, before[name]):
            continue
        part = name.split(".")[-3 if "topiclora_A" in name or "topiclora_B" in name else -1]
        moved.add(part)
        rows = (tensor != before[name]).flatten(1).any(1) if tensor.ndim > 1 else tensor != before[name]
        assert rows.nonzero().flatten().tolist() == [E], name
    assert moved == {"topiclora_B", "weight", "bias"} | (set() if changes.get("shared_a") else {"topiclora_A"})


def test_it_says_how_many_parameters_train(grown):
    with NewestExpert(grown(target_modules=["q_proj"])).alone_trains() as number:
        assert number == 2 * (2 * 32 + 2 * 32 + 32 + 1)  # two layers: A, B, a row of W, a bias


@pytest.mark.parametrize("changes", [{}, {"granularity": "prompt"}, {"router_scope": "block"}])
def test_it_is_chosen_where_its_own_tokens_are_and_hardly_where_the_old_ones_are(changes, grown):
    newest = NewestExpert(grown(**changes))
    newest.fit_router_rows(batches(3, 40, 0), batches(40, 80, 1))
    found = newest.chosen(batches(3, 40, 0), batches(40, 80, 1))
    assert found.old <= STRAY
    assert found.new > 0.1 > 5 * found.old
    assert newest.chosen(batches(3, 40, 2), batches(40, 80, 3)).old < 0.05


def test_routers_fitted_one_after_another_are_those_fitted_together(grown, monkeypatch):
    fitted = []
    for limit in (None, 1):
        if limit is not None:
            monkeypatch.setattr("topiclora_cli.adapters.newest._SQUARES", limit)
        model = grown()
        NewestExpert(model).fit_router_rows(batches(3, 40, 0), batches(40, 80, 1))
        fitted.append({name: p.detach() for name, p in model.named_parameters() if "router" in name})
    torch.testing.assert_close(fitted[0], fitted[1])


def test_a_router_that_has_moved_towards_old_tokens_is_held_off_again(grown):
    model = grown()
    newest = NewestExpert(model)
    newest.fit_router_rows(batches(3, 40, 0), batches(40, 80, 1))
    biases = [p for name, p in model.named_parameters() if name.endswith("topiclora_router.default.bias")]
    with torch.no_grad():
        biases[0][-1] += 50
        biases[1][-1] -= 50
    kept = biases[1].clone()
    newest.lower_biases(batches(3, 40, 0))
    assert newest.chosen(batches(3, 40, 0), batches(40, 80, 1)).old <= 2 * STRAY
    assert torch.equal(biases[1], kept)


def test_a_router_that_hardly_any_new_token_chooses_it_in_is_without_it(grown):
    model = grown()
    newest = NewestExpert(model)
    biases = [p for name, p in model.named_parameters() if name.endswith("topiclora_router.default.bias")]
    with torch.no_grad():
        for bias in biases:
            bias[-1] += 50
        biases[0][-1] -= 100
    newest.leave_off(batches(40, 80, 1))
    assert biases[0][-1] < -500
    assert newest.chosen(batches(3, 40, 0), batches(40, 80, 1)).silent == 1


def test_the_discriminant_is_the_log_odds_of_two_normal_distributions():
    generator = torch.Generator().manual_seed(0)
    root = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    found = []
    for mean in ([0.0, 0.0], [1.0, 0.0]):
        moments = Moments()
        for _ in range(2):
            moments.add(torch.randn(20000, 2, generator=generator) @ root.T + torch.tensor(mean))
        found.append(moments)
    wanted = torch.linalg.solve(root @ root.T, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(discriminant(*found).float(), wanted, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("mean", [100.0, -3000.0])
def test_features_that_hardly_move_far_from_zero_do_not_drown_the_others(mean):
    generator = torch.Generator().manual_seed(0)
    found = []
    for centre in (0.0, 1.0):
        moments = Moments()
        for _ in range(20):
            x = torch.randn(500, 32, generator=generator)
            x[:, 0] += centre
            x[:, 1:31] = mean + 0.01 * x[:, 1:31]
            x[:, 31] = mean / 3  # to the bit
            moments.add(x)
        found.append(moments)
    spread = found[0].covariance.diagonal()[1:31].sqrt()
    torch.testing.assert_close(spread, torch.full_like(spread, 0.01), rtol=0.05, atol=0)
    direction = discriminant(*found)
    noise = (direction[1:31] * 0.01).norm()
    assert direction[0] / (direction[0] ** 2 + noise**2).sqrt() > 0.98
    assert direction[31] == 0
