"""Prior forcing in training: its schedule, what it is held to, and the runs that it means nothing to."""

from types import SimpleNamespace

import pytest
import torch

from tests.training.cut_steps import adapted, examples
from topiclora_cli.adapters.forcing import SMOOTHING, drawn_to_prior
from topiclora_cli.adapters.routers import Router
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import build_recipe
from topiclora_cli.recipe.loss import LossSection
from topiclora_cli.training.batch import Batch
from topiclora_cli.training.collate import Collator
from topiclora_cli.training.losses import prior_forcing_at, smoothed
from topiclora_cli.training.priors import refuse_even_priors
from topiclora_cli.training.terms import refuse_idle_terms
from topiclora_cli.training.validation import validation_losses
from topiclora_cli.training.watched import Watched


def test_eta_falls_linearly_to_0():
    found = [prior_forcing_at(progress, start=0.8, until=0.5) for progress in (0, 0.125, 0.25, 0.5, 0.75, 1)]
    assert found == pytest.approx([0.8, 0.6, 0.4, 0, 0, 0])
    assert prior_forcing_at(0.5, start=1.0, until=1.0) == 0.5


@pytest.mark.parametrize("packed", [False, True])
def test_every_token_has_the_values_of_its_example(packed):
    rows = examples()
    batch = Batch.of(Collator(0, packed=packed)(rows))
    values = torch.arange(1.0, 13).unsqueeze(1)
    spread = batch.of_tokens(values)
    assert spread.shape == (*batch.inputs["input_ids"].shape, 1)
    mine = batch.by_example(spread)[batch.token_mask.bool()]
    assert torch.equal(mine, values.repeat_interleave(torch.tensor([len(row["input_ids"]) for row in rows]), 0))
    if packed:
        assert int((spread == 0).sum()) == spread.numel() - sum(len(row["input_ids"]) for row in rows)


def gates(section, progress=0.0, training=True, kind="topic"):
    """Gates and logits of the topmost layer's up_proj, and the batch."""
    model = adapted(kind).train(training)
    batch = Batch.of(Collator(0)(examples()))
    losses = LossSection(**{**section, "kl": {"weight": 0.0, **section.get("kl", {})}})
    with Watched(model, losses).watching(batch, progress) as record:
        model(**batch.inputs)
    name = next(name for name in record.logits if name.endswith("layers.1.mlp.up_proj"))
    return record.gates[name].detach(), record.logits[name].detach(), batch


@pytest.mark.parametrize(("weighted", "smoothing"), [(True, 0.0), (False, 0.3)])
def test_examples_are_forced_as_much_as_their_priors_are_sure(weighted, smoothing):
    section = {
        "prior_forcing": {"start": 0.8},
        "kl": {"confidence_weighted": weighted, "smoothing": smoothing, "temperature": 3.0},
    }
    found, logits, batch = gates(section, progress=0.25)
    eta = 0.4 * (batch.confidence if weighted else torch.ones(12))[:, None, None]
    pi = smoothed(smoothed(batch.prior, smoothing), SMOOTHING)[:, None]
    p = (logits.softmax(-1) ** (1 - eta) * pi**eta).topk(2)
    kept = torch.zeros_like(logits).scatter(-1, p.indices, p.values / p.values.sum(-1, keepdim=True))
    torch.testing.assert_close(found, kept)


def test_it_is_off_by_default_after_its_time_and_where_nothing_trains():
    plain, *_ = gates({})
    forcing = {"prior_forcing": {"start": 0.8}}
    assert not torch.allclose(gates(forcing)[0], plain)
    for section, others in (
        ({"prior_forcing": {"start": 0.0}}, {}),
        (forcing, {"progress": 0.5}),
        (forcing, {"training": False}),
    ):
        assert torch.equal(gates(section, **others)[0], plain)


def test_the_routers_that_the_kl_leaves_alone_are_not_forced():
    model = adapted("topic").train()
    batch = Batch.of(Collator(0)(examples()))
    seen = {}
    for which in ("top_half", "all"):
        section = LossSection(kl={"weight": 0.0, "layers": which}, prior_forcing={"start": 0.8})
        with Watched(model, section).watching(batch, 0.0):
            routers = {name: module for name, module in model.named_modules() if isinstance(module, Router)}
            scores = torch.zeros(*batch.inputs["input_ids"].shape, 4)
            seen[which] = [
                name for name, router in routers.items() if drawn_to_prior(router, router.context, scores) is not scores
            ]
            model(**batch.inputs)
    assert len(seen["all"]) == 4
    assert seen["top_half"] == [name for name in seen["all"] if ".layers.1." in name]


def test_validation_knows_no_prior():
    model = adapted("topic")
    accelerator = SimpleNamespace(gather_for_metrics=lambda values: values)
    found = []
    for forcing in (0.0, 0.9):
        section = LossSection(prior_forcing={"start": forcing})
        batch = Batch.of(Collator(0)(examples()))
        model.train()
        with Watched(model, section).watching(batch, 0.0):
            model(**batch.inputs).loss.backward()
        found.append(validation_losses(model, [Collator(0)(examples())], section, accelerator))
    assert found[0] == found[1]
    assert found[0]["eval_kl"] > 0


def test_a_prior_over_other_experts_is_the_kl_s_error():
    rows = [{**row, "prior": [0.2] * 5} for row in examples()]
    batch = Batch.of(Collator(0)(rows))
    watched = Watched(adapted("topic").train(), LossSection(kl={"weight": 0.0}, prior_forcing={"start": 0.5}))
    message = r"The prior is over 5 experts, but the router of .* has 4"
    with pytest.raises(TopicLoraError, match=message), watched.watching(batch, 0.0):
        pass


def test_examples_without_priors_are_an_error_that_names_the_key():
    rows = [{key: value for key, value in row.items() if key not in ("prior", "confidence")} for row in examples()]
    watched = Watched(adapted("linear").train(), LossSection(kl={"weight": 0.0}, prior_forcing={"start": 0.5}))
    batch = Batch.of(Collator(0)(rows))
    with (
        pytest.raises(
            TopicLoraError, match=r"loss\.prior_forcing\.start is above 0, but the examples have no topic priors"
        ),
        watched.watching(batch, 0.0),
    ):
        pass


def recipe(loss, **adapter):
    return build_recipe({"name": "x", "model": {"name": "m"}, "adapter": adapter, "loss": loss}, where="here")


@pytest.mark.parametrize(
    ("adapter", "reason"),
    [
        ({"method": "molora"}, "goes by examples' topic priors, and this recipe trains molora without"),
        ({"method": "lora"}, "means nothing to lora, which has no routed experts"),
        ({"method": "adamole"}, "means nothing to the threshold router"),
        ({"method": "ldmole"}, "means nothing to the sparsegen router"),
        ({"method": "hmora"}, "means nothing to the hierarchical router"),
        ({"router": "uniform", "top_k": None}, "means nothing to the uniform router"),
        ({"router": "static"}, "means nothing to the static router"),
    ],
)
def test_methods_that_it_means_nothing_to_refuse_it(adapter, reason):
    key = r"loss\.prior_forcing\.start"
    with pytest.raises(TopicLoraError, match=rf"here: {key} {reason}.*Leave {key} out"):
        recipe({"prior_forcing": {"start": 0.5}}, **adapter)
    assert recipe({"prior_forcing": {"start": 0.0}}, **adapter).loss.prior_forcing.start == 0


def test_a_linear_router_beside_a_prior_takes_it():
    forcing = {"prior_forcing": {"start": 0.5}}
    assert recipe({**forcing, "kl": {"weight": 0.1}}, method="molora").loss.prior_forcing.start == 0.5
    assert recipe(forcing, method="topic-perft").loss.prior_forcing.start == 0.5


def test_an_adapter_that_it_means_nothing_to_is_refused():
    model = adapted("threshold")
    with pytest.raises(
        TopicLoraError, match=r"loss\.prior_forcing\.start is above 0, but the adapter has no router whose"
    ):
        refuse_idle_terms(LossSection(kl={"weight": 0.0}, prior_forcing={"start": 0.5}), model, model.get_base_model())


def test_even_priors_force_nothing():
    section = LossSection(kl={"weight": 0.0}, prior_forcing={"start": 0.5})
    with pytest.raises(TopicLoraError, match=r"leaves prior forcing no weight.*loss\.prior_forcing\.start=0"):
        refuse_even_priors(torch.zeros(3), section)
    refuse_even_priors(
        torch.zeros(3), LossSection(kl={"weight": 0.0, "confidence_weighted": False}, prior_forcing={"start": 0.5})
    )
