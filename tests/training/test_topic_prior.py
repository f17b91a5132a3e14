"""The topic prior in transformers' own Trainer: what it costs, what it needs, and that it is our own trainer's."""

import pytest
import torch
from datasets import Dataset, IterableDataset
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from tests.conftest import SMALL
from tests.training.cut_steps import adapted, examples
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe.loss import LossSection
from topiclora_cli.topics.prior import PriorBatch, confidence
from topiclora_cli.training.collate import Collator
from topiclora_cli.training.prior_columns import add_priors, prompt_of
from topiclora_cli.training.topic_prior import TopicPriorMixin
from topiclora_cli.training.trainer import DualLossTrainer

KL = {"weight": 0.7, "floor": 0.7, "warmup": 0.0}


def collate(rows):
    """Right-padded rows, as others make them."""
    longest = max(len(row["input_ids"]) for row in rows)
    batch = {"input_ids": [], "attention_mask": [], "labels": []}
    for row in rows:
        gap = longest - len(row["input_ids"])
        batch["input_ids"].append(row["input_ids"] + [0] * gap)
        batch["attention_mask"].append([1] * len(row["input_ids"]) + [0] * gap)
        batch["labels"].append(row["labels"] + [-100] * gap)
    return {key: torch.tensor(values) for key, values in batch.items()}


def rows(**changes):
    made = []
    for row in examples():
        start = max(1, row["prompt_length"])
        made.append({**row, "labels": [-100] * start + row["input_ids"][start:], **changes})
    return made


def arguments(folder, **options):
    given = {"per_device_train_batch_size": 12, "max_steps": 1, "report_to": "none", "use_cpu": True, **options}
    return TrainingArguments(str(folder), logging_steps=1, save_strategy="no", disable_tqdm=True, **given)


def gradients_after(trainer):
    found = {}

    def keep(optimizer, *_):
        for name, parameter in trainer.model.named_parameters():
            if parameter.grad is not None:
                found[name] = parameter.grad.clone()

    trainer.create_optimizer()
    trainer.optimizer.register_step_pre_hook(keep)
    trainer.train()
    return found, next(row for row in trainer.state.log_history if "loss" in row)


def theirs(folder, **options):
    return gradients_after(
        TopicPriorMixin(
            adapted("topic").double(),
            arguments(folder, max_grad_norm=0.0, **options),
            train_dataset=Dataset.from_list(rows()),
            data_collator=collate,
            topic_kl=KL,
        )
    )


def ours(folder, **options):
    return gradients_after(
        DualLossTrainer(
            adapted("topic").double(),
            arguments(folder, max_grad_norm=0.0, remove_unused_columns=False, **options),
            train_dataset=Dataset.from_list(examples()),
            data_collator=Collator(0),
            loss_section=LossSection(kl=KL),
            router_learning_rate=None,
            loraplus_lr_ratio=None,
            group_by_length=False,
            decode=str,
        )
    )


@pytest.mark.parametrize("cut", [{}, {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3}])
def test_loss_and_gradients_are_those_of_our_own_trainer(cut, tmp_path):
    (found, log), (wanted, wanted_log) = theirs(tmp_path / "a", **cut), ours(tmp_path / "b", **cut)
    assert log["loss_kl"] == pytest.approx(wanted_log["loss_kl"], abs=1e-6)
    assert log["routing_entropy"] == pytest.approx(wanted_log["routing_entropy"], abs=1e-6)
    assert log["kl_weight"] == pytest.approx(0.7)
    assert found.keys() == wanted.keys()
    assert any("router" in name for name in found)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-6, atol=1e-9)


def trainer(folder, model=None, data=None, **options):
    return TopicPriorMixin(
        model or adapted("topic"),
        arguments(folder),
        train_dataset=Dataset.from_list(data or rows()),
        data_collator=collate,
        **options,
    )


def test_an_evaluation_has_no_kl(tmp_path):
    plain = Trainer(
        adapted("topic"), arguments(tmp_path), eval_dataset=Dataset.from_list(rows()), data_collator=collate
    )
    made = trainer(tmp_path, topic_kl={"weight": 5.0})
    held_out = Dataset.from_list(rows())
    assert made.evaluate(held_out)["eval_loss"] == pytest.approx(plain.evaluate()["eval_loss"])


def test_what_cannot_have_the_kl_is_refused_in_one_line(tmp_path):
    torch.manual_seed(0)
    plain = get_peft_model(LlamaForCausalLM(LlamaConfig(**SMALL)), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(TopicLoraError, match="the adapter has no router"):
        trainer(tmp_path, plain)
    with pytest.raises(TopicLoraError, match="topic_kl: wieght: Extra inputs"):
        trainer(tmp_path, topic_kl={"wieght": 1})
    bare = [{key: value for key, value in row.items() if key not in ("prior", "confidence")} for row in rows()]
    with pytest.raises(TopicLoraError, match="have no topic priors"):
        trainer(tmp_path, data=bare).train()
    whole = [{**row, "labels": row["input_ids"]} for row in rows()]
    with pytest.raises(TopicLoraError, match="No example of a batch has a prompt"):
        trainer(tmp_path, data=whole).train()


def even(prompts):
    prior = torch.full((len(prompts), 4), 0.25)
    return PriorBatch(prior, confidence(prior), prior)


@pytest.mark.parametrize("streamed", [False, True])
def test_priors_are_two_more_columns(streamed):
    data = [{"prompt": f"{number}?", "completion": "4"} for number in range(3)]
    asked = []

    def prior(prompts):
        asked.extend(prompts)
        return even(prompts)

    made = IterableDataset.from_generator(lambda: iter(data)) if streamed else Dataset.from_list(data)
    found = list(add_priors(made, prior))
    assert [row["prompt"] for row in found] == asked == ["0?", "1?", "2?"]
    assert all(row["prior"] == [0.25] * 4 and row["confidence"] == pytest.approx(0, abs=1e-6) for row in found)


def test_what_is_asked_is_read_as_our_own_trainer_reads_it():
    user, answer = {"role": "user", "content": "Two?"}, {"role": "assistant", "content": "2"}
    assert prompt_of({"prompt": [user]}) == prompt_of({"messages": [user, answer, user]}) == "User: Two?\n\nAssistant:"
    with pytest.raises(TopicLoraError, match="neither prompt nor messages, but text"):
        prompt_of({"text": "Two?"})
    assert (
        add_priors(Dataset.from_list([{"text": "a"}]), even, prompt=lambda row: row["text"])[0]["prior"] == [0.25] * 4
    )
