"""The topic prior in TRL's trainers: the KL's value and gradient are those of our own trainer on the same prompts."""

import random

import pytest
import torch
from datasets import Dataset
from peft import get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments

from tests.training.test_topic_prior import KL, gradients_after
from topiclora_cli.adapters import TopicLoraConfig
from topiclora_cli.data.families import mixture
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe.loss import LossSection
from topiclora_cli.topics.prior import PriorBatch, confidence
from topiclora_cli.training.collate import Collator
from topiclora_cli.training.prior_columns import add_priors
from topiclora_cli.training.topic_prior import TopicPriorMixin
from topiclora_cli.training.trainer import DualLossTrainer

trl = pytest.importorskip("trl", reason="needs TRL, which is no requirement: make test-trl")

OPTIONS = {
    "per_device_train_batch_size": 4,
    "max_steps": 1,
    "max_grad_norm": 0.0,
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "logging_steps": 1,
    "save_strategy": "no",
    "disable_tqdm": True,
    "seed": 0,
    "gradient_checkpointing": False,
}


def prior(prompts):
    """A prior that hangs on the text alone."""
    made = torch.stack([torch.tensor([random.Random(f"{n}{text}").random() for n in range(4)]) for text in prompts])
    made = made.square() / made.square().sum(1, keepdim=True)
    return PriorBatch(made, confidence(made), made)


@pytest.fixture
def tokenizer(tiny_model_dir):
    return AutoTokenizer.from_pretrained(tiny_model_dir)


@pytest.fixture
def model(tiny_model_dir):
    def make(router="topic"):
        torch.manual_seed(1)
        base = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
        config = TopicLoraConfig(r=2, num_experts=4, top_k=2, router=router, target_modules=["q_proj", "up_proj"])
        adapted = get_peft_model(base, config)
        generator = torch.Generator().manual_seed(0)
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad and "router" not in name:
                parameter.data.normal_(std=0.1, generator=generator)
        return adapted.double()

    return make


EXAMPLES = mixture("train", 1, seed=0)[:4]


def data(**columns):
    rows = [{"prompt": e.prompt, **{k: f(e) for k, f in columns.items()}} for e in EXAMPLES]
    return add_priors(Dataset.from_list(rows), prior)


SFT = {"completion": lambda e: f" {e.answer}"}
DPO = {"chosen": lambda e: f" {e.answer}", "rejected": lambda e: " no"}


def ours(folder, model, tokenizer, kl):
    """Our own trainer on the same prompts and answers."""
    rows = []
    for row in data(**SFT):
        prompt = tokenizer(row["prompt"])["input_ids"]
        whole = [*tokenizer(row["prompt"] + row["completion"])["input_ids"], tokenizer.eos_token_id]
        rows.append({**row, "input_ids": whole, "prompt_length": len(prompt), "length": len(whole)})
    return gradients_after(
        DualLossTrainer(
            model,
            TrainingArguments(str(folder), remove_unused_columns=False, **OPTIONS),
            train_dataset=Dataset.from_list(rows).select_columns(
                ["input_ids", "prompt_length", "length", "prior", "confidence"]
            ),
            data_collator=Collator(tokenizer.pad_token_id),
            loss_section=LossSection(kl=kl),
            router_learning_rate=None,
            loraplus_lr_ratio=None,
            group_by_length=False,
            decode=str,
        )
    )


def sft(folder, model, tokenizer, **options):
    class Trainer(TopicPriorMixin, trl.SFTTrainer):
        pass

    arguments = trl.SFTConfig(str(folder), **{**OPTIONS, **options.pop("arguments", {})})
    rows = options.pop("rows", None) or data(**SFT)
    return Trainer(model, arguments, train_dataset=rows, processing_class=tokenizer, **options)


def dpo(folder, model, tokenizer, arguments=None, **options):
    class Trainer(TopicPriorMixin, trl.DPOTrainer):
        pass

    given = trl.DPOConfig(str(folder), **{**OPTIONS, **(arguments or {})})
    return Trainer(model, args=given, train_dataset=data(**DPO), processing_class=tokenizer, **options)


def rewarded(kind, config, folder, model, tokenizer, arguments=None, **options):
    class Trainer(TopicPriorMixin, kind):
        pass

    given = {**OPTIONS, **(arguments or {})}
    given["per_device_train_batch_size"] *= 2  # two answers to each prompt
    return Trainer(
        model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=config(str(folder), **given, num_generations=2, max_completion_length=4),
        train_dataset=data(),
        processing_class=tokenizer,
        **options,
    )


def grpo(*args, **options):
    return rewarded(trl.GRPOTrainer, trl.GRPOConfig, *args, **options)


def rloo(*args, **options):
    return rewarded(trl.RLOOTrainer, trl.RLOOConfig, *args, **options)


def less(one, other):
    """The difference of two gradients, which a parameter without any has as zero."""
    zero = torch.zeros(())
    return {name: one.get(name, zero) - other.get(name, zero) for name in one | other}


@pytest.fixture
def of_our_kl(model, tokenizer, tmp_path):
    """Gradients of our own trainer with the KL, of the KL alone, and what was logged."""
    found, log = ours(tmp_path / "ours", model(), tokenizer, KL)
    without, _ = ours(tmp_path / "none", model(), tokenizer, {"weight": 0.0})
    return found, less(found, without), log


def assert_same(found, wanted, atol=1e-9):
    assert any("router" in name and gradient.abs().max() > 1e-6 for name, gradient in wanted.items())
    for name, gradient in wanted.items():
        torch.testing.assert_close(found.get(name, torch.zeros(())).expand_as(gradient), gradient, rtol=1e-6, atol=atol)


def test_sft_has_our_loss(model, tokenizer, tmp_path, of_our_kl):
    found, log = gradients_after(sft(tmp_path / "sft", model(), tokenizer, topic_kl=KL))
    whole, _, wanted = of_our_kl
    assert log["loss_kl"] == pytest.approx(wanted["loss_kl"], abs=1e-6)
    assert log["loss"] == pytest.approx(wanted["loss"], abs=1e-3)  # the Trainer logs four digits
    assert_same(found, whole, atol=1e-7)  # TRL takes the language-modelling loss in float32


CUT = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}


@pytest.mark.parametrize("cut", [{}, CUT], ids=["whole", "cut"])
@pytest.mark.parametrize("make", [sft, dpo, grpo, rloo])
def test_the_kl_is_ours_on_the_same_prompts(make, cut, model, tokenizer, tmp_path, of_our_kl):
    found, log = gradients_after(make(tmp_path / "with", model(), tokenizer, arguments=cut, topic_kl=KL))
    off = make(tmp_path / "without", model(), tokenizer, arguments=cut, topic_kl={"weight": 0.0})
    without, plain = gradients_after(off)
    _, of_kl, wanted = of_our_kl
    assert log["loss_kl"] == pytest.approx(wanted["loss_kl"], abs=1e-6)
    assert "loss_kl" not in plain
    assert_same(less(found, without), of_kl)


def test_routing_by_prompt_hears_which_tokens_are_the_prompt(model, tokenizer, tmp_path, recwarn):
    for make in (sft, dpo, grpo, rloo):
        make(tmp_path, model("hierarchical"), tokenizer, topic_kl=KL).train()
    assert not [warning for warning in recwarn if "prompt mask" in str(warning.message)]


def test_a_config_of_ours_is_enough(tiny_model_dir, tokenizer, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    config = TopicLoraConfig(r=2, num_experts=4, top_k=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    trainer = sft(tmp_path, base, tokenizer, peft_config=config)
    trainer.train()
    assert {"loss_kl", "routing_entropy", "mean_token_accuracy"} <= set(trainer.state.log_history[0])
    trainer.save_model(str(tmp_path / "adapter"))
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("router", ["topic", "hierarchical"])
def test_layers_that_run_again_in_the_backward_pass_have_the_same_gradients(router, model, tokenizer, tmp_path):
    again, _ = gradients_after(
        sft(tmp_path, model(router), tokenizer, topic_kl=KL, arguments={"gradient_checkpointing": True})
    )
    once, _ = gradients_after(sft(tmp_path, model(router), tokenizer, topic_kl=KL))
    assert_same(again, once)


def test_packed_rows_are_refused(model, tokenizer, tmp_path):
    with pytest.raises(TopicLoraError, match="Packed rows"):
        sft(tmp_path, model(), tokenizer, arguments={"packing": True, "max_length": 64})
