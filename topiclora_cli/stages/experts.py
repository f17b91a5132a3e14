"""Every expert as a stock LoRA of its own, with the weights that make them one again."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from topiclora_cli.adapters.topiclora import TopicLoraLayer
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.merging.collapse import PlainLora, plain_lora
from topiclora_cli.models.base import BaseModel
from topiclora_cli.recipe import Recipe
from topiclora_cli.runs.files import read_json, write_json, write_text
from topiclora_cli.stages.exports import Written, in_dtype, stock_card
from topiclora_cli.stages.inputs import open_base
from topiclora_cli.training.saving import write_adapter

WEIGHTS = "weights.json"
_README = """# {count} LoRA experts

Each folder is a stock LoRA, the change that one expert makes at full weight. `{weights}` has the weights of the fixed
gates ({gates}), averaged over layers; peft adds the experts up under them, or under any others:

```python
import json

from peft import PeftModel

weights = json.load(open("{weights}"))
first, *others = weights["adapters"]
model = PeftModel.from_pretrained(base, first, adapter_name=first)
for name in others:
    model.load_adapter(name, adapter_name=name)
model.add_weighted_adapter(weights["adapters"], weights["weights"], "mixed", combination_type="cat")
model.set_adapter("mixed")
```

A server of several LoRAs takes each of them by name.
"""


def expert_loras(model: PeftModel) -> dict[str, PlainLora]:
    """A LoRA for each expert, and one, `shared`, for those that every token passes through.

    Raises TopicLoraError where layers have different numbers of experts, or these started from the base's spectrum.
    """
    adapter = model.active_adapters[0]
    layers = [
        module for module in model.modules() if isinstance(module, TopicLoraLayer) and adapter in module.topiclora_B
    ]
    counts = {layer.topiclora_config[adapter].num_experts for layer in layers} - {1}
    if any(adapter in layer.topiclora_start for layer in layers):
        raise TopicLoraError(
            "Experts that started from the base's spectrum (init: svd) are LoRAs together, not one by one.",
            "Use --to lora.",
        )
    if len(counts) > 1:
        raise TopicLoraError(
            f"The layers have different numbers of experts ({', '.join(map(str, sorted(counts)))}), so that no expert "
            "goes through all of them.",
            "Use --to lora.",
        )
    experts = next(iter(counts), 1)
    found = {f"expert-{e}": plain_lora(model, _alone(layers, adapter, e)) for e in range(experts)}
    if any(layer.topiclora_config[adapter].shared_experts for layer in layers):
        found["shared"] = plain_lora(model, _alone(layers, adapter, None))
    return found


def mean_weights(gates: Mapping[str, Tensor], names: Mapping[str, PlainLora]) -> list[float]:
    """The weight of each of `expert_loras`: its gates averaged over layers; shared experts' as they are."""
    experts = [name for name in names if name != "shared"]
    routed = [values for values in gates.values() if len(values) >= len(experts)]
    mean = torch.stack([values[: len(experts)] for values in routed]).mean(0).tolist()
    return [*mean, *([1.0] if "shared" in names else [])]


def write_experts(recipe: Recipe, loras: Mapping[str, PlainLora], weights: list[float], folder: Path) -> Written:
    """The LoRAs and their weights under `folder`/experts."""
    place, base = folder / "experts", open_base(recipe, exact=True)
    for name, plain in loras.items():
        (place / name).mkdir(parents=True)
        card = stock_card("One expert of a mixture of LoRA experts", f"`{name}` alone, at full weight.")
        lora = in_dtype(plain.onto(base.model), recipe.merge.dtype)
        write_adapter(lora, place / name, card=card, about=base.about)
        lora.unload()
    gates = recipe.merge.gates
    write_json(place / WEIGHTS, {"gates": gates, "adapters": list(loras), "weights": weights})
    write_text(place / "README.md", _README.format(count=len(loras), weights=WEIGHTS, gates=gates))
    return Written("experts", "experts", place)


def experts_read_back(export: Written, base: BaseModel) -> nn.Module:
    """The experts put together again by peft, under their weights."""
    said: Any = read_json(export.folder / WEIGHTS, hint="Run merge again.")
    first, *others = said["adapters"]
    model: Any = PeftModel.from_pretrained(base.model, export.folder / first, adapter_name=first)
    for name in others:
        model.load_adapter(export.folder / name, adapter_name=name)
    model.add_weighted_adapter(said["adapters"], said["weights"], "mixed", combination_type="cat")
    model.set_adapter("mixed")
    return model.eval()  # type: ignore[no-any-return]


def _alone(layers: Sequence[TopicLoraLayer], adapter: str, expert: int | None) -> dict[str, Tensor]:
    """Gates that leave one routed expert alone, or the shared ones; a layer's only expert is part of expert 0."""
    gates = {}
    for layer in layers:
        config = layer.topiclora_config[adapter]
        own = torch.zeros(config.all_experts)
        if expert is None:
            own[config.num_experts :] = 1.0
        elif config.num_experts > expert:
            own[expert] = 1.0
        gates[layer.name] = own
    return gates
