"""The language-modelling loss is the weighted mean over a step's tokens, however the step is cut, padded or packed."""

import json

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator

from tests.training.cut_steps import adapted, examples, one_step
from topiclora_cli.recipe.loss import LossSection
from topiclora_cli.training.batch import Batch
from topiclora_cli.training.collate import Collator
from topiclora_cli.training.validation import validation_losses
from topiclora_cli.training.whole_step import count_step


def naive():
    """The weighted mean and its gradients in double precision: one example at a time, over all of its logits."""
    model = adapted("linear").double()
    total, weight = torch.zeros((), dtype=torch.float64), 0.0
    for row in examples(weighted=True):
        ids = torch.tensor([row["input_ids"]])
        prompt = row["prompt_length"]
        weights = row["weights"] or [0.0] * prompt + [1.0] * (ids.shape[1] - prompt)
        losses = F.cross_entropy(model(input_ids=ids).logits[0, :-1], ids[0, 1:], reduction="none")
        total = total + sum(w * loss for w, loss in zip(weights[1:], losses, strict=True))
        weight += sum(weights[1:])
    (total / weight).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return float(total.detach() / weight), gradients


@pytest.mark.parametrize(
    ("batch_size", "accumulation", "packed"),
    [(12, 1, False), (5, 3, False), (4, 3, True)],
    ids=["12", "5+5+2", "packed"],
)
def test_loss_and_gradient_are_those_of_the_weighted_mean(batch_size, accumulation, packed):
    loss, expected = naive()
    gradients, row = one_step("lm, weighted", batch_size, accumulation, packed=packed)
    assert row["loss_lm"] == pytest.approx(loss, rel=1e-6)
    assert gradients.keys() == expected.keys()
    size = torch.cat([value.flatten() for value in expected.values()]).norm()
    apart = torch.cat([(gradients[name] - expected[name]).flatten() for name in expected]).norm()
    assert apart < 1e-5 * size


@pytest.mark.parametrize(("packed", "unit"), [(False, 1.0), (True, 1.0), (False, 1e-4)])
def test_the_validation_loss_is_the_weighted_mean_too(packed, unit):
    rows, collate = examples(weighted=True), Collator(0, select_logits=True, packed=packed, weighted=True)
    for row in rows:
        own = row["weights"] or [float(place >= row["prompt_length"]) for place in range(len(row["input_ids"]))]
        row["weights"] = [unit * weight for weight in own]
    batches = [collate(rows[start : start + 5]) for start in range(0, 12, 5)]
    for batch in batches:
        batch.pop("prior", None)
    losses = validation_losses(adapted("linear"), batches, LossSection(), Accelerator(cpu=True))
    assert losses["eval_loss"] == pytest.approx(naive()[0], rel=1e-6)


def test_a_step_in_which_nothing_has_weight_has_no_loss():
    rows = [{"input_ids": [5, 6, 7], "prompt_length": 1, "weights": [0.0, 0.0, 0.0]}]
    batch = Batch.of(Collator(0, weighted=True)(rows))
    whole = count_step([batch], None)
    assert float(whole.of_labels(torch.ones(0), torch.ones(0))) == 0


def test_a_training_of_steps_without_weight_has_a_loss_of_0_there(tiny_recipe, run_cli, tmp_path):
    rows = [{"prompt": f"What is {n} + 1?", "completion": str(n + 1), "sure": float(n == 0)} for n in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"source": "rows.jsonl", "loss_weight": {"column": "sure"}}
    changes = {"data": data, "train.max_steps": 8, "train.batch_size": 1, "train.logging_steps": 1}
    changes |= {"adapter.method": "lora"}
    options = [part for key, value in changes.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    code, text = run_cli("train", "--recipe", tiny_recipe, "--out", "run", *options)
    assert code == 0, text
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = sorted(row["loss"] for row in logged)
    assert losses[:7] == [0.0] * 7
    assert losses[7] > 1


def test_weights_of_sources_rows_and_messages_reach_the_loss(tiny_recipe, run_cli, tmp_path):
    """A source of weight 0 changes nothing; weights that are all alike are none."""
    good = [{"q": f"What is {n} + 1?", "a": str(n + 1), "sure": 0.5} for n in range(8)]
    bad = [{"q": f"What is {n} + 1?", "a": "no", "sure": 0.5} for n in range(8)]
    (tmp_path / "good.jsonl").write_text("".join(json.dumps(row) + "\n" for row in good))
    (tmp_path / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bad))
    templates = {"prompt": "{{ q }}", "completion": "{{ a }}"}

    def last(name, *sources, **settings):
        data = {"sources": [{**templates, **source} for source in sources], "source": None, "topics": None}
        changes = {"data": None, "train.max_steps": 2, "train.batch_size": 16, "train.logging_steps": 1, **settings}
        changes |= {f"data.{key}": value for key, value in data.items()}
        changes |= {"adapter.method": "lora"}
        options = [part for key, value in changes.items() for part in ("--set", f"{key}={json.dumps(value)}")]
        code, text = run_cli("train", "--recipe", tiny_recipe, "--out", tmp_path / name, *options)
        assert code == 0, text
        rows = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        return rows[0]["loss_lm"]

    plain = last("plain", {"source": "good.jsonl"})
    column = {"source": "good.jsonl", "loss_weight": {"column": "sure"}}
    assert last("alike", column) == pytest.approx(plain, rel=1e-6)
    muted = last("muted", {"source": "good.jsonl"}, {"source": "bad.jsonl", "loss_weight": 0})
    assert muted == pytest.approx(plain, rel=1e-6)
    both = last("both", {"source": "good.jsonl"}, {"source": "bad.jsonl"})
    assert both != pytest.approx(plain, rel=1e-3)
