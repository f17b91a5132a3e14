"""The topic prior in other people's trainers: transformers' Trainer, and TRL's for SFT, DPO and GRPO.

class TopicSFTTrainer(TopicPriorMixin, SFTTrainer): ...

data = add_priors(data, topiclora_cli.load_prior("runs/mine"))
TopicSFTTrainer(model, args, train_dataset=data, topic_kl={"weight": 0.1}, peft_config=TopicLoraConfig(...)).train()
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor
from transformers import Trainer

from topiclora_cli.adapters.prompt import prompt_tokens
from topiclora_cli.adapters.record import RoutingRecord, record_routing
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe.loss import KlLoss, LossSection
from topiclora_cli.training.prior_columns import CONFIDENCE, PRIOR, WithPriors, stacked
from topiclora_cli.training.step import Step
from topiclora_cli.training.terms import loss_terms, refuse_idle_terms
from topiclora_cli.training.watched import refuse_hidden_gradients
from topiclora_cli.training.whole_step import WholeStep

_IGNORE = -100


class TopicPriorMixin(Trainer):
    """Stands before a Trainer, whose loss then also holds the routers to each example's topic prior, by the KL.

    The rows have the columns of `add_priors`. topic_kl: keys of a recipe's `loss.kl`, with its defaults. Where a batch
    has labels, as in SFT, what routers do is read off the trainer's own forward pass, and an example's prompt is all
    before its first label. In DPO, GRPO and RLOO prompts go through the model once more, by themselves. Examples count
    alike within a micro-batch, and micro-batches within a step; an evaluation's loss has no KL. Logged are loss_kl,
    kl_weight and routing_entropy, as in our own trainer.

    Raises TopicLoraError for an adapter without routers, for examples without priors or prompts, and for rows that hold
    several examples.
    """

    def __init__(self, *args: Any, topic_kl: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        self._topic_section = _section(topic_kl or {})
        self._topic_values: dict[str, list[Tensor]] = defaultdict(list)
        super().__init__(*args, **kwargs)
        arguments: Any = self.args
        if getattr(arguments, "packing", False) or getattr(arguments, "padding_free", False):
            raise TopicLoraError(
                "Packed rows hold several examples, and each has a prior of its own.",
                "Set packing and padding_free to False.",
            )
        model: Any = self.model
        refuse_idle_terms(
            self._topic_section, model, model.get_base_model() if hasattr(model, "peft_config") else model
        )
        self.data_collator = WithPriors(self.data_collator)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The trainer's loss and, while it trains, the KL's share of it."""
        inputs = dict(inputs)  # GRPO keeps its own for later steps
        prior, confidence = inputs.pop(PRIOR, None), inputs.pop(CONFIDENCE, None)
        options: dict[str, Any] = {"return_outputs": return_outputs, "num_items_in_batch": num_items_in_batch}
        trained: Any = self.model
        if not trained.training or self._topic_section.kl.weight == 0:
            return super().compute_loss(model, inputs, **options)
        if prior is None:
            raise TopicLoraError(
                "The training examples have no topic priors.",
                "Add them: train_dataset = add_priors(train_dataset, prior).",
            )
        if "labels" in inputs:
            tokens, prompt = inputs["attention_mask"], _before_labels(inputs["labels"], inputs["attention_mask"])
            with record_routing(trained) as record, prompt_tokens(prompt, trained):
                result = super().compute_loss(model, inputs, **options)
            record.arrange(tokens.shape)
        else:
            ids, tokens = _prompts(inputs, len(prior))
            # What the routers read in the trainer's own pass is said there, too.
            with prompt_tokens(_own_prompts(inputs), trained):
                result = super().compute_loss(model, inputs, **options)
            prompt = tokens
            with record_routing(trained) as record, prompt_tokens(prompt, trained), self.compute_loss_context_manager():
                trained(input_ids=ids, attention_mask=tokens, use_cache=False)
            record.arrange(tokens.shape)
        refuse_hidden_gradients(trained, record)
        added = self._topic_loss(record, tokens, prompt, prior, confidence)
        if not self._divides(num_items_in_batch):
            added = added / self.current_gradient_accumulation_steps
        return (result[0] + added, *result[1:]) if isinstance(result, tuple) else result + added

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """What the trainer logs and, beside its training loss, what the KL has been since."""
        if "loss" in logs:
            logs.update({name: float(torch.stack(v).mean()) for name, v in self._topic_values.items()})
            self._topic_values.clear()
        super().log(logs, *args, **kwargs)

    def _topic_loss(
        self, record: RoutingRecord, tokens: Tensor, prompt: Tensor, prior: Tensor, confidence: Tensor
    ) -> Tensor:
        told = prompt.bool().any(1)  # of an example that was cut to its answer nothing is known
        if not told.any():
            raise TopicLoraError(
                "No example of a batch has a prompt: its labels cover all of it, or its prompt was cut off.",
                "Train on completions alone (completion_only_loss, assistant_only_loss), or raise max_length.",
            )
        step = Step(
            record=RoutingRecord(logits={name: logits[told] for name, logits in record.logits.items()}),
            model=self.model,  # type: ignore[arg-type]
            section=self._topic_section,
            progress=self.state.global_step / max(1, self.state.max_steps),
            token_mask=tokens[told],
            prompt_mask=prompt[told],
            prior=prior[told],
            confidence=confidence[told],
        )
        examples = torch.tensor(float(len(prompt)), device=prompt.device)
        whole = WholeStep(tokens.sum(), examples, micro_batches=1, processes=1, means={})
        with torch.autocast(tokens.device.type, enabled=False):
            weight, value = loss_terms(step, whole, {})["kl"]
        self._topic_values["loss_kl"].append(value.detach())
        self._topic_values["kl_weight"].append(value.new_tensor(weight))
        self._topic_values["routing_entropy"].append(step.routing_entropy.mean())
        return weight * value

    def _divides(self, num_items_in_batch: Tensor | int | None) -> bool:
        """Whether the Trainer divides a micro-batch's loss by their number, as its training_step decides."""
        if self.loss_is_scaled_for_ga is not None:
            return not self.loss_is_scaled_for_ga
        by_items = self.model_accepts_loss_kwargs and num_items_in_batch is not None
        return not (by_items or self.compute_loss_func is not None)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        columns: list[str] = self._signature_columns or []
        more = [name for name in (PRIOR, CONFIDENCE) if name not in columns]
        self._signature_columns = [*columns, *more]  # type: ignore[assignment]

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        """GRPO's and RLOO's batch of answers to rows of prompts, with the rows' priors."""
        generated = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        if PRIOR not in inputs[0]:
            return generated
        device = self.accelerator.device
        return {**generated, **{name: values.to(device) for name, values in stacked(inputs).items()}}


def _section(topic_kl: Mapping[str, Any]) -> LossSection:
    try:
        return LossSection(kl=KlLoss(**topic_kl))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        known = ", ".join(KlLoss.model_fields)
        raise TopicLoraError(f"topic_kl: {key}: {first['msg']}.", f"Known keys: {known}.") from None


def _before_labels(labels: Tensor, tokens: Tensor) -> Tensor:
    """Which tokens (B, S) stand before an example's first label."""
    return ((labels != _IGNORE).cumsum(1) == 0).to(tokens.dtype) * tokens


def _own_prompts(inputs: Mapping[str, Any]) -> Tensor:
    """The prompt mask (R, P) of the rows that a trainer of preferences or rewards runs."""
    if "prompt_mask" in inputs:
        return inputs["prompt_mask"]  # type: ignore[no-any-return]
    if "completion_mask" in inputs and "attention_mask" in inputs:
        mask: Tensor = inputs["attention_mask"] * (1 - inputs["completion_mask"])
        return mask
    raise TopicLoraError(
        f"This trainer's batches do not say which tokens are the prompt; they have {', '.join(inputs)}.",
        "Known are those of transformers' Trainer and of TRL's for SFT, DPO, GRPO and RLOO.",
    )


def _prompts(inputs: Mapping[str, Any], examples: int) -> tuple[Tensor, Tensor]:
    """Ids and mask (B, P) of the examples' prompts alone, from the left; of preferences, those of the chosen."""
    mask = _own_prompts(inputs)[:examples]
    ids = inputs["prompt_ids"] if "prompt_ids" in inputs else inputs["input_ids"]
    longest = max(1, int(mask.sum(1).max()))
    order = mask.bool().to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :longest]
    return ids[:examples].gather(1, order), mask.gather(1, order)
