"""transformers' Trainer with the dual loss: language modelling plus KL from the topic prior to the routers."""

import re
from collections import defaultdict
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import Trainer

from topiclora_cli.adapters.record import RoutingRecord, record_routing
from topiclora_cli.adapters.routers import TopicRouter
from topiclora_cli.recipe.schema import LossSection
from topiclora_cli.training.losses import (
    key_anchor,
    kl_weight_at,
    normalised_entropy,
    pooled_probabilities,
    prior_kl,
    switch_balance,
)
from topiclora_cli.training.sampler import LengthBlockSampler

ROUTER_PARAMETERS = "topiclora_router"


class DualLossTrainer(Trainer):
    """Adds the routing losses to a causal language model's own loss and logs each of them.

    A batch without a `prior` (a plain LoRA, say) is trained on the language-modelling loss alone.
    """

    def __init__(
        self,
        *args: Any,
        loss_section: LossSection,
        router_learning_rate: float | None,
        group_by_length: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.loss_section = loss_section
        self.router_learning_rate = router_learning_rate
        self.group_by_length = group_by_length
        self._sums: dict[str, float] = defaultdict(float)
        self._parts = 0

    @property
    def _trained(self) -> Any:
        assert self.model is not None
        return self.model

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        inputs = dict(inputs)
        prior = inputs.pop("prior", None)
        confidence = inputs.pop("confidence", None)
        prompt_mask = inputs.pop("prompt_mask", None)
        if inputs["labels"].shape[1] < inputs["input_ids"].shape[1]:
            inputs["logits_to_keep"] = inputs["labels"].shape[1]
        with record_routing() as record:
            loss, outputs = super().compute_loss(
                model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch
            )
        language_modelling = loss.detach()
        if prior is not None and record.logits:
            extra = self._routing_loss(record, prior, confidence, prompt_mask, inputs["attention_mask"])
            # The model's loss is already a share of the accumulated batch; this one is a micro-batch mean.
            scale = 1 if num_items_in_batch is None else self.current_gradient_accumulation_steps
            loss = loss + extra / scale
        if model.training:
            self._sums["loss_lm"] += float(language_modelling)
            self._parts += 1
        return (loss, outputs) if return_outputs else loss

    def _routing_loss(
        self, record: RoutingRecord, prior: Tensor, confidence: Tensor, prompt_mask: Tensor, token_mask: Tensor
    ) -> Tensor:
        section = self.loss_section
        names = aligned_layers(list(record.logits), section.kl_layers)
        pooled = torch.stack([pooled_probabilities(record.logits[name], mask=prompt_mask) for name in names])
        kl = prior_kl(
            pooled,
            prior=prior,
            weight=confidence if section.confidence_weighted else None,
            temperature=section.temperature,
            direction=section.kl_direction,
        )
        progress = self.state.global_step / max(1, self.state.max_steps)
        weight = kl_weight_at(progress, peak=section.kl_weight, floor=section.kl_floor, warmup=section.kl_warmup)
        total = weight * kl
        parts = {"loss_kl": kl, "kl_weight": weight, "routing_entropy": normalised_entropy(pooled.detach())}
        if section.balance_weight > 0:
            mask = token_mask.float()
            balance = torch.stack(
                [switch_balance(record.logits[name], record.gates[name], mask=mask) for name in record.logits]
            ).mean()
            total = total + section.balance_weight * balance
            parts["loss_balance"] = balance
        if section.anchor_weight > 0 and (routers := trained_key_routers(self._trained)):
            anchor = key_anchor([router.keys for router in routers], [router.anchor for router in routers])
            total = total + section.anchor_weight * anchor
            parts["loss_anchor"] = anchor
        if self._trained.training:
            for name, value in parts.items():
                self._sums[name] += float(torch.as_tensor(value).detach())
        return total

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        dataset: Any = train_dataset if train_dataset is not None else self.train_dataset
        if not self.group_by_length:
            return super()._get_train_sampler(dataset)
        # One optimizer step sees the same examples however it is cut into micro-batches and processes.
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return LengthBlockSampler(dataset["length"], step, seed=self.args.seed)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW with the routers in a group of their own, since they need a larger step than the experts."""
        if self.optimizer is None and self.router_learning_rate is not None:
            trainable = [(n, p) for n, p in (model or self._trained).named_parameters() if p.requires_grad]
            routers = [p for n, p in trainable if ROUTER_PARAMETERS in n]
            experts = [p for n, p in trainable if ROUTER_PARAMETERS not in n]
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, self._trained)
            groups = [
                {"params": experts, "weight_decay": self.args.weight_decay},
                {"params": routers, "weight_decay": 0.0, "lr": self.router_learning_rate},
            ]
            self.optimizer = optimizer_class([group for group in groups if group["params"]], **options)
        return super().create_optimizer(model)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs and self._parts:
            # loss_lm is a share of its step, so it adds up within one and averages over steps, as Trainer's does.
            steps = self._parts / self.args.gradient_accumulation_steps
            for name, value in self._sums.items():
                logs[name] = round(value / (steps if name == "loss_lm" else self._parts), 6)
            self._sums.clear()
            self._parts = 0
        super().log(logs, *args, **kwargs)


def aligned_layers(names: list[str], which: str) -> list[str]:
    """The adapted linears whose routing the prior shapes: all, or those in the upper half of the model's layers."""
    if which == "all":
        return names
    numbers = {name: int(match.group(1)) for name in names if (match := re.search(r"\.(\d+)\.", name))}
    if not numbers:
        return names
    middle = (min(numbers.values()) + max(numbers.values()) + 1) / 2
    return [name for name in names if numbers.get(name, middle) >= middle]


def trained_key_routers(model: nn.Module) -> list[TopicRouter]:
    """Topic routers whose keys are trained."""
    return [m for m in model.modules() if isinstance(m, TopicRouter) and isinstance(m.keys, nn.Parameter)]
