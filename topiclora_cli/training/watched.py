"""Forward passes with their routing watched: what losses are computed from, and what a step needs beforehand."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from topiclora_cli.adapters.forcing import choosing_routers, forced_routing
from topiclora_cli.adapters.parameters import parameter_kinds
from topiclora_cli.adapters.prompt import prompt_tokens
from topiclora_cli.adapters.record import RoutingRecord, record_routing
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe.loss import LossSection
from topiclora_cli.training.batch import Batch
from topiclora_cli.training.losses import target
from topiclora_cli.training.model_losses import own_losses_apart
from topiclora_cli.training.step import Step, aligned_layers, prior_forcing
from topiclora_cli.training.token_terms import measure, needs_means, whole_means
from topiclora_cli.training.whole_step import Parts, WholeStep, add_up, count_step, survey


@dataclass(frozen=True)
class Watched:
    """An adapted model under the losses of a recipe."""

    model: Any
    section: LossSection

    @contextmanager
    def watching(self, batch: Batch, progress: float) -> Iterator[RoutingRecord]:
        """What the routers do in the block with a batch, in its examples' shape afterwards.

        While the model trains, a prior forces them as much as `progress`, the part of training that is done, leaves of
        loss.prior_forcing.
        """
        if self.section.base_balance.weight > 0:
            batch.inputs["output_router_logits"] = True
        with (
            record_routing(self.model, inputs=self.section.contrast.weight > 0) as record,
            prompt_tokens(batch.prompt_mask, self.model),
            own_losses_apart(self.model),
            self._forced(batch, progress),
        ):
            yield record
        if record.logits:
            refuse_hidden_gradients(self.model, record)
            batch.arrange(record)

    def _forced(self, batch: Batch, progress: float) -> AbstractContextManager[None]:
        section = self.section
        eta = prior_forcing(section, progress)
        if eta == 0 or not self.model.training:
            return nullcontext()
        if batch.prior is None or batch.confidence is None:
            raise TopicLoraError(
                "loss.prior_forcing.start is above 0, but the examples have no topic priors.",
                "Set it to 0, or use a method with a topic graph or loss.kl.weight above 0.",
            )
        # What the KL pulls the router towards: its temperature softens both sides, so that they still meet there.
        prior = target(batch.prior, label=section.kl.label, smoothing=section.kl.smoothing)
        # An example that is about no topic is left to the router.
        certain = batch.confidence if section.kl.confidence_weighted else torch.ones_like(batch.confidence)
        layers = aligned_layers([name for name, _ in choosing_routers(self.model)], section.kl.layers)
        share = batch.of_tokens(eta * certain.unsqueeze(-1)).squeeze(-1)
        return forced_routing(self.model, batch.of_tokens(prior), share, layers)

    def step(self, batch: Batch, record: RoutingRecord, outputs: Any, progress: float) -> Step:
        """What the losses of this forward pass are functions of."""
        balances_base = self.section.base_balance.weight > 0
        return Step(
            record=record,
            model=self.model,
            section=self.section,
            progress=progress,
            token_mask=batch.token_mask,
            prompt_mask=batch.prompt_mask,
            prior=batch.prior,
            confidence=batch.confidence,
            base_logits=tuple(map(batch.of_rows, outputs["router_logits"])) if balances_base else (),
            base_top_k=self.model.get_base_model().num_experts_per_tok if balances_base else 0,
        )

    def look_ahead(
        self,
        batches: Sequence[Batch],
        on_device: Callable[[dict[str, Any]], dict[str, Any]],
        accelerator: Accelerator,
        progress: float,
    ) -> WholeStep:
        """The step that these micro-batches are, with its means where several of them need to know these before.

        on_device: puts a batch's inputs and tensors where the model is, for a forward pass; counting does without.
        """
        whole = count_step(batches, accelerator)
        if len(batches) == 1 or not needs_means(self.section):
            return whole
        self.model.train()

        def parts_of(batch: Batch) -> Parts:
            quick = batch.without_labels().put(on_device)
            with self.watching(quick, progress) as record:
                outputs = self.model(**quick.inputs)
            step = self.step(quick, record, outputs, progress)
            with torch.autocast(step.token_mask.device.type, enabled=False):
                return whole_means(measure(step, whole))

        return replace(whole, means=add_up(survey(batches, parts_of), accelerator))


def refuse_hidden_gradients(model: nn.Module, record: RoutingRecord) -> None:
    """Raises TopicLoraError where routers train but what was recorded of them carries no gradient."""
    recorded = any(logits.requires_grad for logits in record.logits.values())
    if not model.training or not torch.is_grad_enabled() or recorded:
        return
    if any(kind == "router" and parameter.requires_grad for parameter, kind in parameter_kinds(model).items()):
        raise TopicLoraError(
            "Gradient checkpointing with use_reentrant=True hides the routing from its losses.",
            "Use train.gradient_checkpointing, or pass use_reentrant=False.",
        )
