"""Fixed gates turn the mixture into one plain LoRA, exactly: A stacked, B scaled and set side by side."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from topiclora_cli.adapters.stock import lora_targets
from topiclora_cli.adapters.topiclora import TopicLoraConfig, TopicLoraLayer, TopicLoraModel
from topiclora_cli.errors import TopicLoraError, first_line
from topiclora_cli.merging.carry import EXPORT, Carried
from topiclora_cli.merging.ranks import Factors, cut, rank_of_energy, smallest, spectrum


@dataclass(frozen=True)
class PlainLora:
    """A stock LoRA that is not on a model yet.

    factors: adapted linear -> A (R, d_in) and B (d_out, R), the scale in B. carried: what the adapter trained beside
    its experts. base: what the adapter calls its base.
    """

    factors: Mapping[str, Factors]
    carried: Carried
    base: str | None

    @property
    def rank(self) -> int:
        """The largest of any layer."""
        return max(len(lora_a) for lora_a, _ in self.factors.values())

    def cut(self, rank: int | None, energy: float | None) -> "PlainLora":
        """The best approximation of a rank, or, of each layer, of the rank that keeps a share of the energy."""
        factors = {}
        for name, own in self.factors.items():
            ordered = spectrum(own)
            wanted = rank_of_energy(ordered, energy) if energy is not None else rank or len(ordered[0])
            factors[name] = cut(ordered, wanted)
        return replace(self, factors=factors)

    def onto(self, base: PreTrainedModel) -> PeftModel:
        """Wrap a model in this LoRA; raises TopicLoraError where peft has none for its layers."""
        ranks = {name: len(lora_a) for name, (lora_a, _) in self.factors.items()}
        others = {name: value for name, value in ranks.items() if value != self.rank}
        targets = lora_targets(base, self.factors)
        # alpha = rank makes the LoRA's own scaling one; the mixture's is already in B.
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.rank,
            rank_pattern=targets.pattern(others),
            alpha_pattern=targets.pattern(others),
            task_type="CAUSAL_LM",
            **vars(targets),
        )
        try:
            lora = get_peft_model(base, self.carried.make_room(config))
        except ValueError as error:
            raise TopicLoraError(
                f"No stock LoRA adapts these layers: {first_line(error)}", "Serve the adapter itself."
            ) from None
        modules: dict[str, Any] = dict(lora.base_model.named_modules())
        with torch.no_grad():
            for name, (lora_a, lora_b) in self.factors.items():
                modules[f"model.{name}"].lora_A[EXPORT].weight.copy_(lora_a)
                modules[f"model.{name}"].lora_B[EXPORT].weight.copy_(lora_b)
        self.carried.put_into(lora)  # type: ignore[arg-type]
        lora.peft_config[EXPORT].base_model_name_or_path = self.base
        return lora.eval()  # type: ignore[return-value]


def plain_lora(routed: PeftModel, gates: Mapping[str, Tensor]) -> PlainLora:
    """The stock LoRA that equals `routed` under fixed gates, of the smallest rank: (E + S)*r, or r with one A, less
    what the gates leave idle.

    gates: adapted linear -> (E + S,), those of shared experts last. Raises TopicLoraError where the adapter is no
    mixture, gates are missing, or something that it trains fits no LoRA.
    """
    adapter = routed.active_adapters[0]
    config = routed.peft_config[adapter]
    if not isinstance(config, TopicLoraConfig):
        raise TopicLoraError("The adapter is no mixture and needs no fixed gates.", "Use peft's merge_and_unload.")
    layers = {m.name: m for m in routed.modules() if isinstance(m, TopicLoraLayer) and adapter in m.topiclora_A}
    if missing := sorted(set(layers) - set(gates)):
        raise TopicLoraError(f"No gates for {missing[0]} and {len(missing) - 1} more.", "Observe the whole model.")
    factors = {name: smallest(layer.as_lora(adapter, gates[name])) for name, layer in layers.items()}
    carried = Carried.of(routed, adapter, prefix=TopicLoraModel.prefix)
    return PlainLora(factors, carried, config.base_model_name_or_path)


def merge_into_base(lora: PeftModel) -> PreTrainedModel:
    """The base model with a LoRA in its weights; `lora` is used up.

    A head tied to the embedding that was adapted or trained for itself is its own from then on.
    """
    base: Any = lora.get_base_model()
    head: Any = base.get_output_embeddings()
    embedding: Any = base.get_input_embeddings()
    inner = getattr(head, "base_layer", None)
    if inner is not None and inner.weight is embedding.weight:
        inner.weight = nn.Parameter(inner.weight.detach().clone(), requires_grad=False)
    dense: Any = lora.merge_and_unload()
    if (head := dense.get_output_embeddings()) is not None:
        tied = head.weight is dense.get_input_embeddings().weight
        for config in {id(c): c for c in (dense.config, dense.config.get_text_config())}.values():
            config.tie_word_embeddings = tied
    return dense  # type: ignore[no-any-return]
