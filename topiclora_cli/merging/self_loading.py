"""A routed model as a folder that stock transformers loads: its weights, and code of its own."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import torch
import transformers
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from topiclora_cli.adapters.perft import PerftConfig, PerftModel
from topiclora_cli.adapters.perft.layer import PerftLayer
from topiclora_cli.adapters.topiclora import TopicLoraConfig, TopicLoraLayer, TopicLoraModel
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.merging.carry import Carried
from topiclora_cli.merging.choosers import ChooserSettings, chooser_of
from topiclora_cli.merging.shipped.adapting import NAME, add_adapters
from topiclora_cli.runs.files import read_json, write_json

SOURCES = ("adapting.py", "choosing.py")
MODELING = "modeling_routed.py"


@dataclass(frozen=True)
class AdapterSettings:
    """An adapter beside one layer, as shipped/adapting.py reads it; the shapes of its tensors follow."""

    experts: int
    shared: int
    rank: int
    one_a: bool
    reads: int
    writes: int
    scale: float
    start: int = 0
    silu: bool = False
    chooser: ChooserSettings | None = None
    follows: str | None = None
    watches: bool = False
    kept: int = 0
    renormalise: bool = False
    slots: int = 0


@dataclass(frozen=True)
class RoutedParts:
    """All that an adapter adds to its base: settings and tensors by layer, and what it trained beside its experts."""

    layers: Mapping[str, AdapterSettings]
    tensors: Mapping[str, Tensor]
    carried: Carried


def routed_parts(model: PeftModel) -> RoutedParts:
    """What a self-loading folder needs of a model with a routed adapter.

    Raises TopicLoraError, with the reason, for one whose routing looks at more than its own token, or which mixes
    within a block.
    """
    adapter = model.active_adapters[0]
    config: Any = model.peft_config[adapter]
    if isinstance(config, PerftConfig):
        found = {m.name: _of_block(m, adapter) for m in model.modules() if isinstance(m, PerftLayer)}
        prefix = PerftModel.prefix
    elif isinstance(config, TopicLoraConfig):
        _refuse(config)
        layers = [m for m in model.modules() if isinstance(m, TopicLoraLayer) and adapter in m.topiclora_A]
        owners = {id(m.topiclora_group[adapter]): m.name for m in layers if adapter in m.topiclora_router}
        found = {m.name: _of_linear(m, adapter, owners[id(m.topiclora_group[adapter])]) for m in layers}
        prefix = TopicLoraModel.prefix
    else:
        raise TopicLoraError("The adapter routes nothing.", "Use --to lora, or the adapter itself.")
    tensors = {f"{name}.{NAME}.{key}": value for name, (_, own) in found.items() for key, value in own.items()}
    carried = Carried.of(model, adapter, prefix=prefix)
    return RoutedParts({name: settings for name, (settings, _) in found.items()}, tensors, carried)


@torch.no_grad()
def write_self_loading(base: PreTrainedModel, parts: RoutedParts, folder: Path, *, shard: str) -> None:
    """Write the base's weights, the adapter's and their code into `folder`; `base` is used up.

    Raises TopicLoraError for a base whose own code is no part of transformers.
    """
    name, config_name = type(base).__name__, type(base.config).__name__
    if not (hasattr(transformers, name) and hasattr(transformers, config_name)):
        raise TopicLoraError(f"{name} is no model of transformers' own.", "Use --to lora or dense.")
    _take_in(base, parts.carried)
    settings = _plain(parts.layers)
    add_adapters(base, settings)
    state = base.state_dict()
    for key, value in parts.tensors.items():
        state[key].copy_(value)
    # Under a type of its own transformers would not find how the original format is to be read.
    base.save_pretrained(folder, max_shard_size=shard, save_original_format=False)
    kind = f"routed_{base.config.model_type}"
    module = MODELING.removesuffix(".py")
    said = read_json(folder / "config.json", hint="")
    said |= {"model_type": kind, "architectures": ["RoutedForCausalLM"], "routed": settings}
    said["auto_map"] = {"AutoConfig": f"{module}.RoutedConfig", "AutoModelForCausalLM": f"{module}.RoutedForCausalLM"}
    write_json(folder / "config.json", said)
    shipped = files("topiclora_cli.merging") / "shipped"
    text = Template((shipped / "modeling.txt").read_text(encoding="utf-8"))
    values = {"base": name.removesuffix("ForCausalLM"), "model": name, "config": config_name, "type": kind}
    (folder / MODELING).write_text(text.substitute(values), encoding="utf-8")
    for source in SOURCES:
        (folder / source).write_text((shipped / source).read_text(encoding="utf-8"), encoding="utf-8")


def _refuse(config: TopicLoraConfig) -> None:
    if config.pools_prompt:
        raise TopicLoraError(
            "Routing by prompt has to be told where the prompt ends, which stock tools do not.",
            "Serve the adapter itself.",
        )
    if config.mixing == "ffn":
        raise TopicLoraError(
            "Experts mixed within a block (adapter.mixing: ffn) run each token through it several times, which no hook "
            "beside a layer does.",
            "Serve the adapter itself.",
        )


def _of_linear(layer: TopicLoraLayer, adapter: str, owner: str) -> tuple[AdapterSettings, dict[str, Tensor]]:
    config = layer.topiclora_config[adapter]
    lora_a, lora_b = layer.factors(adapter)
    tensors = {"A": lora_a, "B": lora_b}
    settings = AdapterSettings(
        experts=config.num_experts,
        shared=config.shared_experts,
        rank=config.r,
        one_a=config.shared_a,
        reads=layer.in_features,
        writes=layer.out_features,
        scale=config.scale,
        follows=None if owner == layer.name else owner,
    )
    if adapter in layer.topiclora_start:
        start: Any = layer.topiclora_start[adapter]
        tensors |= {"start_A": start.start_a.flatten(0, 1), "start_B": start.start_b.flatten(0, 1).T}
        settings = replace(settings, start=len(tensors["start_A"]))
    if adapter in layer.topiclora_router:
        chooser, own = chooser_of(layer.topiclora_router[adapter], reads=layer.in_features)
        settings, tensors = replace(settings, chooser=chooser), tensors | {f"chooser.{k}": v for k, v in own.items()}
    return settings, tensors


def _of_block(layer: PerftLayer, adapter: str) -> tuple[AdapterSettings, dict[str, Tensor]]:
    config = layer.perft_config[adapter]
    down, up = layer.factors(adapter)
    tensors, chooser = {"A": down, "B": up}, None
    if adapter in layer.perft_router:
        chooser, own = chooser_of(layer.perft_router[adapter], reads=layer.in_features)
        tensors |= {f"chooser.{key}": value for key, value in own.items()}
    routes = config.routes and not config.follows_base
    settings = AdapterSettings(
        experts=config.num_adapters,
        shared=config.shared_adapters,
        rank=config.r,
        one_a=False,
        reads=layer.in_features,
        writes=layer.out_features,
        scale=config.scale,
        silu=config.adapter_type == "parallel",
        chooser=chooser,
        watches=config.follows_base,
        kept=config.top_k if routes else 0,
        renormalise=config.renormalize == "on",
        slots=config.top_k,
    )
    return settings, tensors


def _take_in(base: PreTrainedModel, carried: Carried) -> None:
    """Put what was trained whole, and trained rows of embeddings, in the place of the base's own."""
    head, embedding = base.get_output_embeddings(), base.get_input_embeddings()
    tied = head is not None and head.weight is embedding.weight
    for name, module in carried.modules.items():
        base.set_submodule(name.removeprefix("base_model.model."), module)
    head, embedding = base.get_output_embeddings(), base.get_input_embeddings()
    if tied and head.weight is not embedding.weight:
        for config in {id(c): c for c in (base.config, base.config.get_text_config())}.values():
            config.tie_word_embeddings = False
    for name, rows in carried.rows.items():
        place: Any = base.get_submodule(name.removeprefix("base_model.model."))
        indices = carried.tokens
        if isinstance(indices, dict):
            indices = next(value for key, value in indices.items() if name.endswith(key))
        place.weight.data[indices] = rows.to(place.weight.dtype)


def _plain(layers: Mapping[str, AdapterSettings]) -> dict[str, Any]:
    """The settings as JSON: what most layers have in common once, and of each what it has otherwise."""
    every = {name: asdict(settings) for name, settings in layers.items()}
    common = {}
    for key in next(iter(every.values())):
        values = [json.dumps(own[key]) for own in every.values()]
        common[key] = json.loads(max(values, key=values.count))
    own = {name: {k: v for k, v in values.items() if v != common[k]} for name, values in every.items()}
    return {"all": common, "layers": own}
