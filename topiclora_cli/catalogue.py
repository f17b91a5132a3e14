"""The methods as a table: what each routes, shares and adds to the loss, and what it costs on a model."""

from collections.abc import Sequence
from dataclasses import dataclass

from topiclora_cli.adapters.counting import count_on, rank_of
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.models import load_skeleton
from topiclora_cli.recipe import Recipe, build_recipe
from topiclora_cli.recipe.methods import METHODS
from topiclora_cli.training.attach import solve


@dataclass(frozen=True)
class MethodRow:
    """One method in words, and its parameters where a model was given (X-LoRA's depend on the adapters it mixes)."""

    name: str
    router: str
    experts: str
    rank: str
    sharing: str
    targets: str
    loss: str
    total: int | None
    activated: int | None
    source: str


def describe_methods(model: str | None, budget: str | None, names: Sequence[str] = ()) -> list[MethodRow]:
    """All methods with their reference settings, or at a budget of parameters on `model`.

    Raises TopicLoraError for a budget without a model, a model that cannot be found, or a budget out of reach.
    """
    if budget and not model:
        raise TopicLoraError("--budget needs --model, since ranks are solved on its shapes.", "Name a model.")
    skeleton = load_skeleton(model) if model else None
    rows = []
    for name in names or METHODS:
        takes_budget = name != "xlora"
        adapter = {"method": name, **({"budget": budget} if takes_budget else {"init_from": ["-"]})}
        recipe = build_recipe({"name": "-", "model": {"name": "-"}, "adapter": adapter}, where="--budget or method")
        rank, total, activated = str(recipe.adapter.r) if takes_budget else "-", None, None
        if skeleton is not None and takes_budget:
            try:
                config = solve(recipe.adapter, skeleton)
            except TopicLoraError:
                if len(names) == 1:
                    raise
                rank = "out of reach"
            else:
                rank = str(rank_of(config))
                total, activated = count_on(skeleton, config)
        rows.append(_row(name, recipe, rank, total, activated))
    return rows


def _row(name: str, recipe: Recipe, rank: str, total: int | None, activated: int | None) -> MethodRow:
    section, method = recipe.adapter, METHODS[name]
    targets = section.target_modules if isinstance(section.target_modules, str) else ", ".join(section.target_modules)
    if not section.ours:
        words = {"lora+": f"B at {recipe.train.loraplus_lr_ratio or 0:g} x the rate", "dora": "direction and magnitude"}
        return MethodRow(name, "-", "-", rank, words.get(name, "-"), targets, "-", total, activated, method.source)
    chosen = f", top-{section.top_k}" if section.top_k else ""
    experts = "-".join(map(str, section.experts_by_depth or [section.num_experts]))
    sharing = [
        "one A" if section.shared_a else "",
        "" if section.router_scope == "linear" else f"router per {section.router_scope}",
        "mixed after the FFN's non-linearity" if section.mixing == "ffn" else "",
        f"plain LoRA on {section.plain_modules}" if section.plain_modules else "",
    ]
    terms = {
        key.removesuffix("_weight").replace("_", " "): value
        for key, value in recipe.loss.model_dump().items()
        if key.endswith("_weight") and value > 0
    }
    return MethodRow(
        name=name,
        router=section.router,
        experts=experts + chosen,
        rank=rank,
        sharing=", ".join(filter(None, sharing)) or "-",
        targets=targets,
        loss=", ".join(f"{term} {value:g}" for term, value in terms.items()) or "-",
        total=total,
        activated=activated,
        source=method.source,
    )
