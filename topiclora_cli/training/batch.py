"""A collated batch, taken apart into what the model reads and what the losses look at."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from torch import Tensor

from topiclora_cli.adapters.record import RoutingRecord


@dataclass(frozen=True)
class Batch:
    """inputs: the arguments of the model's forward call, in rows (R, W) of one example or, packed, of several.

    token_mask, prompt_mask (B, S): an example's tokens, and those of its prompt; prior (B, E) and confidence (B,), or
    None where there is no topic graph. places (B, S): where in the flattened rows each of these tokens is, -1 for
    padding; None where rows are examples. label_weights (R, W): of the labels in the loss, None where all weigh 1.
    """

    inputs: dict[str, Any]
    token_mask: Tensor
    prompt_mask: Tensor
    places: Tensor | None
    prior: Tensor | None
    confidence: Tensor | None
    label_weights: Tensor | None = None

    @classmethod
    def of(cls, collated: Mapping[str, Tensor]) -> "Batch":
        inputs: dict[str, Any] = dict(collated)
        prior, confidence, places = (inputs.pop(name, None) for name in ("prior", "confidence", "places"))
        prompt_mask, label_weights = inputs.pop("prompt_mask"), inputs.pop("label_weights", None)
        if places is not None:
            inputs["use_cache"] = False  # with a cache, transformers would not look for packed examples
        token_mask = inputs["attention_mask"] if places is None else (places >= 0).long()
        return cls(inputs, token_mask, prompt_mask, places, prior, confidence, label_weights)

    def by_example(self, values: Tensor) -> Tensor:
        """Values (R, W, ...) of the rows' tokens as those of the examples' (B, S, ...), anything where is padding."""
        return values if self.places is None else values.flatten(0, 1)[self.places.clamp_min(0)]

    def of_rows(self, values: Tensor) -> Tensor:
        """Values (R * W, n) of all tokens in one row after another as those of the examples' (B, S, n)."""
        return self.by_example(values.reshape(*self.inputs["input_ids"].shape, -1))

    def of_tokens(self, values: Tensor) -> Tensor:
        """Values (B, n) of the examples as those of the rows' tokens (R, W, n), in packed rows 0 at padding."""
        shape = self.inputs["input_ids"].shape
        if self.places is None:
            return values.unsqueeze(1).expand(*shape, -1)
        real = self.places >= 0
        spread = values.new_zeros(shape.numel(), values.shape[-1])
        spread[self.places[real]] = values.unsqueeze(1).expand(*real.shape, -1)[real]
        return spread.view(*shape, -1)

    def without_labels(self) -> "Batch":
        """The same for a forward pass that is after the routing alone: no loss, and logits at one position at most."""
        inputs = {name: value for name, value in self.inputs.items() if name not in ("labels", "shift_labels")}
        if "logits_to_keep" in inputs:
            inputs["logits_to_keep"] = 1
        return replace(self, inputs=inputs)

    def put(self, on_device: Callable[[dict[str, Any]], dict[str, Any]]) -> "Batch":
        """The same where `on_device` moves a dictionary of tensors to."""
        return Batch(**on_device({field.name: getattr(self, field.name) for field in fields(self)}))

    def arrange(self, record: RoutingRecord) -> None:
        """Give what was recorded the examples' shape (B, S, ...)."""
        rows = self.inputs["input_ids"].shape
        record.arrange(rows)
        for tensors in (*record.of_routing(), record.inputs):
            for name, tensor in tensors.items():
                if tensor.shape[:2] == rows:
                    tensors[name] = self.by_example(tensor)
