"""The methods as a table: what each routes, shares and adds to the loss, and what it costs on a model.

Their reference settings are told from recipes alone; what needs torch is loaded where a model or a setting is given.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import Recipe, build_recipe, parse_override, with_overrides
from topiclora_cli.recipe.adapter import AdapterSection, MixtureSection, PerftSection
from topiclora_cli.recipe.methods import METHODS
from topiclora_cli.scaling import first_step

if TYPE_CHECKING:
    from topiclora_cli.stages.counted import Counted, Skeleton

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
    skeleton = None
    if model:
        from topiclora_cli.stages.counted import open_skeleton

        skeleton = open_skeleton(model, config_only=config_only, upcycle=upcycle)
    rows = []
    for name in names or METHODS:
        takes_budget = name != "xlora"
        adapter = {"method": name, **({"budget": budget} if takes_budget else {"init_from": ["-"]})}
        values = with_overrides({**_EMPTY, "adapter": adapter}, changes)
        # In a list of methods a setting goes to those that it means something to.
        recipe = build_recipe(values, where=f"method {name}", given=None if len(names) == 1 else {})
        try:
            rank, step, counted = _measured(recipe.adapter, skeleton, altered=bool(changes)) if takes_budget else _NONE
        except TopicLoraError:
            if len(names) == 1:
                raise
            rank, step, counted = "does not fit", None, None
        rows.append(_row(name, recipe, rank, step, counted))
    return rows


_NONE: tuple[str, float | None, "Counted | None"] = ("-", None, None)


def _measured(
    section: AdapterSection, skeleton: "Skeleton | None", *, altered: bool
) -> tuple[str, float | None, "Counted | None"]:
    """Rank, first step and parameters; raises TopicLoraError for settings that do not fit one another, or the model."""
    rank, step = _rank(section), first_step(section.layer, section.model_dump())
    if skeleton is not None:
        from topiclora_cli.stages.counted import count

        counted = count(section, skeleton)
        by_depth = isinstance(section, MixtureSection) and section.ranks_by_depth
        return rank if by_depth else str(counted.rank), counted.first_step, counted
    if altered:  # a method's own settings are known to fit
        from topiclora_cli.training.attach import refuse_contradictions

        refuse_contradictions(section)
    return rank, step, None


def _rank(section: AdapterSection) -> str:
    return "-".join(map(str, section.ranks))


def _row(name: str, recipe: Recipe, rank: str, first_step: float | None, counted: "Counted | None") -> MethodRow:
    section = recipe.adapter
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
        total=counted.total if counted else None,
        activated=counted.activated if counted else None,
        percent=counted.percent if counted else None,
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
