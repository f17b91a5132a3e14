"""The methods as a table: what each routes, shares and adds to the loss, and what it costs on a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from topiclora_cli.adapters.counting import activated_base_parameters, count_on, plain_rank_on, rank_of
from topiclora_cli.adapters.presets import sizes_config
from topiclora_cli.adapters.topiclora import TopicLoraConfig
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.models.base import load_skeleton
from topiclora_cli.recipe import Recipe, build_recipe, parse_override, with_overrides
from topiclora_cli.recipe.adapter import (
    AdapterSection,
    ExpertsSection,
    LoraSection,
    MixtureSection,
    PerftSection,
)
from topiclora_cli.recipe.methods import METHODS, PLAIN
from topiclora_cli.scaling import plain_rank, stock_law
from topiclora_cli.training.attach import solve

_EMPTY = {"name": "-", "model": {"name": "-"}}


@dataclass(frozen=True)
class MethodRow:
    """One method in words, and its parameters where a model was given (X-LoRA's depend on the adapters it mixes).

    first_step: what Adam's first step on fresh experts moves of the output, scale x rank x sum of the gates, over what
    it does of a plain LoRA with as many parameters as the experts have and an alpha of twice its rank; None where that
    is not a matter of sizes. percent: activated parameters of the adapter per hundred activated parameters of the base
    model.
    """

    name: str
    router: str
    experts: str
    rank: str
    first_step: float | None
    sharing: str
    targets: str
    loss: str
    total: int | None
    activated: int | None
    percent: float | None


def describe_methods(
    model: str | None,
    budget: str | None,
    names: Sequence[str] = (),
    *,
    overrides: Sequence[str] = (),
    config_only: bool = False,
) -> list[MethodRow]:
    """All methods with their reference settings, or at a budget of parameters on `model`.

    overrides: `dotted.key=value` on top of every method's settings. config_only: count from a configuration that is at
    hand, with no download. Raises TopicLoraError for a budget without a model, a model that cannot be found, settings
    that no recipe may have, or a single method that does not fit them, the model or the budget.
    """
    if not model and (budget or config_only):
        flag = "--budget" if budget else "--config-only"
        raise TopicLoraError(f"{flag} needs --model, since parameters are counted on its shapes.", "Name a model.")
    changes = [parse_override(text) for text in overrides]
    if "adapter.method" in dict(changes):
        raise TopicLoraError("--set adapter.method does not choose methods here.", "Example: topiclora methods mola")
    if dict(changes).get("adapter.num_experts") == "auto":
        raise TopicLoraError(
            "--set adapter.num_experts=auto needs the topic graph, which methods are listed without.", "Give a number."
        )
    if "model.name" in dict(changes):
        raise TopicLoraError("--set model.name does not choose the model here.", "Use --model.")
    upcycle = build_recipe(with_overrides(_EMPTY, changes), where="--set", given={}).model.upcycle
    skeleton = load_skeleton(model, config_only=config_only, upcycle=upcycle) if model else None
    base = activated_base_parameters(skeleton) if skeleton is not None else 0
    rows = []
    for name in names or METHODS:
        takes_budget = name != "xlora"
        adapter = {"method": name, **({"budget": budget} if takes_budget else {"init_from": ["-"]})}
        values = with_overrides({**_EMPTY, "adapter": adapter}, changes)
        # In a list of methods a setting goes to those that it means something to.
        recipe = build_recipe(values, where=f"method {name}", given=None if len(names) == 1 else {})
        rank, first_step, counts = "-", None, None
        try:
            if takes_budget:
                rank, first_step = _rank(recipe.adapter), _first_step(recipe.adapter)
            if skeleton is not None and takes_budget:
                config = solve(recipe.adapter, skeleton)
                counts = count_on(skeleton, config)
                first_step = _first_step(recipe.adapter, config, skeleton)
                by_depth = isinstance(recipe.adapter, MixtureSection) and recipe.adapter.ranks_by_depth
                rank = rank if by_depth else str(rank_of(config))
        except TopicLoraError:
            if len(names) == 1:
                raise
            rank, first_step, counts = "does not fit", None, None
        rows.append(_row(name, recipe, rank, first_step, counts, base))
    return rows


def _rank(section: AdapterSection) -> str:
    return "-".join(map(str, section.ranks))


def _first_step(section: AdapterSection, config: Any = None, skeleton: nn.Module | None = None) -> float | None:
    """MethodRow's, exactly for a configuration on a model, or for square layers by the settings alone."""
    settings, plain = section.model_dump(), PLAIN["lora_alpha"] / PLAIN["r"]
    if isinstance(section, LoraSection):
        alpha, rank = (config or section).lora_alpha, (config or section).r
        return stock_law(settings).scale(alpha, rank) / plain
    parallel = isinstance(section, PerftSection) and section.adapter_type == "parallel"
    if not isinstance(section, ExpertsSection) or parallel:
        return None
    made = sizes_config(section.layer, settings) if config is None else config
    layers: list[Any]
    if isinstance(made, TopicLoraConfig):
        layers = [made.at("", layer) for layer in range(len(made.experts_per_layer or made.ranks_per_layer or [0]))]
    elif made.follows_base:
        return None
    else:
        layers = [made]
    moved = sum(layer.scale * layer.r * layer.gates_at_start for layer in layers) / len(layers)
    rank = plain_rank(settings) if skeleton is None else plain_rank_on(skeleton, made)
    return float(moved / (plain * rank))


def _row(
    name: str, recipe: Recipe, rank: str, first_step: float | None, counts: tuple[int, int] | None, base: int
) -> MethodRow:
    section = recipe.adapter
    total, activated = counts or (None, None)
    percent = 100 * activated / base if activated is not None else None
    targets = section.targets if isinstance(section.targets, str) else ", ".join(section.targets)
    terms = {term.replace("_", " "): each.weight for term, each in recipe.loss.terms.items() if each.weight > 0}
    router, experts, sharing = _words(recipe)
    return MethodRow(
        name=name,
        router=router,
        experts=experts,
        rank=rank,
        first_step=first_step,
        sharing=sharing or "-",
        targets=targets,
        loss=", ".join(f"{term} {value:g}" for term, value in terms.items()) or "-",
        total=total,
        activated=activated,
        percent=percent,
    )


def _words(recipe: Recipe) -> tuple[str, str, str]:
    """Router, experts and sharing of a method."""
    section = recipe.adapter
    if not isinstance(section, MixtureSection | PerftSection):
        words = {"lora+": f"B at {recipe.train.loraplus_lr_ratio or 0:g} x the rate", "dora": "direction and magnitude"}
        return "-", "-", words.get(section.method, "")
    chosen = f", top-{section.top_k}" if section.top_k else ""
    beside = f" + {section.shared_experts} shared" if section.shared_experts else ""
    experts = str(section.num_experts)
    if isinstance(section, MixtureSection) and section.experts_by_depth:
        experts = "-".join(map(str, section.experts_by_depth))
    experts += beside + chosen
    if isinstance(section, PerftSection):
        place = f"{section.variant} beside the experts"
        own = section.router if section.router_weight_source == "own" else f"{section.router}, pretrained weights"
        router = {"routed": own, "embedded": "pretrained"}.get(section.variant, "-")
        number = {"embedded": "the base's", "dense": str(section.num_experts), "shared": "1"}
        return router, number.get(section.variant, experts), place
    sharing = [
        "shared in the softmax" if section.shared_gate == "softmax" else "",
        "one A" if section.shared_a else "",
        "" if section.router_scope == "linear" else f"router per {section.router_scope}",
        "mixed after the FFN's non-linearity" if section.mixing == "ffn" else "",
        f"plain LoRA on {section.plain_modules}" if section.plain_modules else "",
    ]
    return section.router, experts, ", ".join(filter(None, sharing))
