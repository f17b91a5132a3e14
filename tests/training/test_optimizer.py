"""Which parameters take which rate and decay: one rule, whatever else is set."""

import pytest
from transformers import TrainingArguments

from tests.training.cut_steps import CONFIGS, adapted
from topiclora_cli.adapters.parameters import parameter_kinds
from topiclora_cli.recipe.loss import LossSection
from topiclora_cli.training.collate import Collator
from topiclora_cli.training.trainer import DualLossTrainer


def kind_by_name(name):
    """What a parameter is, by what its layer happens to call the container that holds it."""
    if any(part in name for part in ("topiclora_router", "perft_router")):
        return "router"
    return "b" if any(part in name for part in ("lora_B", "topiclora_B", "perft_B")) else "a"


@pytest.mark.parametrize("kind", CONFIGS)
def test_layers_say_what_their_parameters_are(kind):
    model = adapted(kind)
    declared = parameter_kinds(model)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name: declared[parameter] for name, parameter in trained.items()} == {n: kind_by_name(n) for n in trained}


def settings(folder, kind="topic", *, router_learning_rate=None, loraplus_lr_ratio=None, **changes):
    """Rate and weight decay of each trained parameter, by name."""
    model = adapted(kind, **changes)
    trainer = DualLossTrainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder), use_cpu=True, report_to="none", weight_decay=0.1, learning_rate=1e-3
        ),
        data_collator=Collator(0),
        loss_section=LossSection(kl={"weight": 0.0}),
        router_learning_rate=router_learning_rate,
        loraplus_lr_ratio=loraplus_lr_ratio,
        group_by_length=False,
        decode=str,
    )
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = trainer.create_optimizer().param_groups
    return {names[p]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}


@pytest.mark.parametrize("loraplus_lr_ratio", [None, 4.0])
@pytest.mark.parametrize("router_learning_rate", [None, 2e-3])
def test_routers_never_decay_and_experts_always_do(router_learning_rate, loraplus_lr_ratio, tmp_path):
    rates = {"router": router_learning_rate or 1e-3, "a": 1e-3, "b": 1e-3 * (loraplus_lr_ratio or 1)}
    found = settings(tmp_path, router_learning_rate=router_learning_rate, loraplus_lr_ratio=loraplus_lr_ratio)
    assert {kind_by_name(name) for name in found} == set(rates)
    for name, (rate, decay) in found.items():
        kind = kind_by_name(name)
        assert (rate, decay) == (pytest.approx(rates[kind]), 0.0 if kind == "router" else 0.1), name


def test_every_trained_parameter_is_in_one_group(tmp_path):
    trained = {name for name, parameter in adapted("cosine").named_parameters() if parameter.requires_grad}
    assert settings(tmp_path, "cosine").keys() == trained


def test_what_transformers_exempts_stays_exempt(tmp_path):
    found = settings(tmp_path, "adalora", modules_to_save=["norm"])
    saved = [decay for name, (_, decay) in found.items() if "modules_to_save" in name]
    assert saved
    assert set(saved) == {0.0}
    assert {decay for name, (_, decay) in found.items() if "lora_A" in name} == {0.1}
