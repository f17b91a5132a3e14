"""Puts the recipe's adapter on the base model: method, targets, budget, starting weights."""

import dataclasses
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft import PeftConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from topiclora_cli.adapters.counting import (
    adapted_modules,
    count_parameters,
    empty_copy,
    parse_budget,
    rank_of,
)
from topiclora_cli.adapters.init_from import load_experts, read_loras
from topiclora_cli.adapters.presets import make_config, sizes_config
from topiclora_cli.adapters.roles import never_called
from topiclora_cli.adapters.stock import why_no_lora
from topiclora_cli.adapters.targets import is_role, left_alone, linear_layers, refuse_idle, refuse_unknown
from topiclora_cli.adapters.topiclora import TopicLoraLayer
from topiclora_cli.errors import TopicLoraError, first_line
from topiclora_cli.models.base import BaseModel
from topiclora_cli.recipe import Recipe
from topiclora_cli.recipe.adapter import (
    AdapterSection,
    ExpertsSection,
    MixtureSection,
    PerftSection,
    SizedSection,
)
from topiclora_cli.recipe.methods import METHODS
from topiclora_cli.runs.progress import Progress
from topiclora_cli.scaling import LAWS, plain_rank, stock_law
from topiclora_cli.training.moved_base import remember_start
from topiclora_cli.training.sizes import AdapterSizes
from topiclora_cli.training.terms import reach_routers

_COLUMNS = ("modules", "count", "shape", "experts", "rank", "router", "parameters")


def attach_adapter(base: BaseModel, recipe: Recipe, *, total_steps: int, progress: Progress, **extra: Any) -> PeftModel:
    """The base model with a fresh adapter, after saying what was adapted.

    extra: further settings of the mixture, such as anchors. Raises TopicLoraError where targets match nothing, sizes do
    not fit, the budget is out of reach, or an adapter to start from cannot be used.
    """
    section = recipe.adapter
    sources = read_loras(section.trained) if section.trained and isinstance(section, MixtureSection) else None
    if sources is not None:
        extra = {**extra, **sources.settings()}
    if isinstance(section, PerftSection) and section.router_weight_source == "pretrained":
        extra = {**extra, "train_router": reach_routers(recipe.loss)}
    config = solve(section, base.model, total_steps=total_steps, **extra)
    asked = section.budget if isinstance(section, SizedSection) else None
    budget = parse_budget(asked, base.model) if asked is not None else None
    # Packed weights do not go to the meta device; what keeps a LoRA off a layer is its place in any case.
    skeleton = empty_copy(base.model) if section.exports and not getattr(base.model, "is_quantized", False) else None
    apart = left_alone(base.model) if is_role(section.targets) else {}
    model = attach(base.model, config)
    # peft has named it by where it lies.
    next(iter(model.peft_config.values())).base_model_name_or_path = base.name or base.source
    if sources is not None:
        load_experts(model, sources)
    found = map(dataclasses.astuple, adapted_modules(model))
    rows = [tuple(f"{value:,}" if isinstance(value, int) else str(value) for value in row) for row in found]
    progress.table(f"Adapted by {section.method}", _COLUMNS, rows)
    law = METHODS[section.method].papers_scaling
    if isinstance(section, ExpertsSection) and law not in (None, section.scaling) and sources is None:
        progress.say(
            f"Warning: scaled by adapter.scaling: {section.scaling}, where {section.method} has {law} in its paper."
        )
    for reason in dict.fromkeys(apart.values()):
        names = sorted({name.rpartition(".")[2] for name, why in apart.items() if why == reason})
        progress.say(f"Not adapted: {', '.join(names)} ({reason}).")
    if skeleton is not None and (why := why_no_lora(skeleton, _mixture_layers(model))):
        progress.say(f"Warning: topiclora merge will have no stock LoRA of this adapter. {why}")
    total, activated = count_parameters(model)
    progress.say(
        f"Trainable parameters: {total:,} in all, {activated:,} activated per token."
        + (f" Budget {asked}: {_off_budget(budget, model)}." if budget is not None else "")
    )
    return model


def refuse_contradictions(section: AdapterSection) -> None:
    """Raises TopicLoraError for settings that fit one another on no model, before anything is made for one."""
    # A number of experts that is still to come, from the topic graph or from trained adapters, may fit.
    if isinstance(section, ExpertsSection) and section.num_experts != "auto" and not section.trained:
        sizes_config(section.layer, section.model_dump())


def solve(
    section: AdapterSection,
    model: nn.Module,
    *,
    total_steps: int = 1,
    sizes: AdapterSizes | None = None,
    **extra: Any,
) -> PeftConfig:
    """The peft configuration of a recipe's adapter on `model`, its rank solved for the budget where there is one.

    sizes: of adapters on that very model, where some are known already.
    """
    settings = section.model_dump()
    if not isinstance(section, SizedSection):
        return make_config(section.layer, settings, model, total_steps=total_steps, **extra)
    refuse_unknown(
        model,
        exclude_modules=section.exclude_modules,
        modules_to_save=section.modules_to_save,
        layers_to_transform=section.layers_to_transform,
    )

    def made(rank: int, alpha: float) -> PeftConfig:
        changed = {**settings, "r": rank, "lora_alpha": alpha}
        return make_config(section.layer, changed, model, total_steps=total_steps, **extra)

    if section.budget is None:
        return made(section.r, section.lora_alpha)
    # A budget solves for the rank, and must not change the update's size with it.
    sizes = sizes or AdapterSizes(model)
    rank = sizes.rank_for(section.budget, section, **extra)
    if isinstance(section, ExpertsSection) and section.scaling == "total":
        plain = sizes.plain_rank(section, rank, **extra)
        alpha = LAWS["total"].alpha_at(plain, alpha=section.lora_alpha, of=plain_rank(settings))
    else:
        law = LAWS[section.scaling] if isinstance(section, ExpertsSection) else stock_law(settings)
        alpha = law.alpha_at(rank, alpha=section.lora_alpha, of=section.r)
    return made(rank, alpha)


def attach(model: nn.Module, config: PeftConfig) -> PeftModel:
    """Put a fresh adapter on a model.

    Raises TopicLoraError where targets match nothing, naming the linear layers there are to choose from, and for layers
    that the model never calls, by whatever way they became targets.
    """
    never_called(model)  # an adapter's own calls are not the model's
    try:
        with warnings.catch_warnings():
            # Of memory: the base lies in it already, and an empty adapter would have to be filled by hand.
            warnings.filterwarnings("ignore", message="lora with eva initialization")
            adapted: Any = get_peft_model(model, config)  # type: ignore[arg-type]
    except (ValueError, TypeError) as error:
        if "not found in the base model" not in str(error) and "No modules were targeted" not in str(error):
            if isinstance(start := getattr(config, "init_lora_weights", None), str):
                raise TopicLoraError(f"adapter.init_lora_weights: {start}: {first_line(error)}") from None
            raise
        linears = {name.rpartition(".")[2] for name in linear_layers(model)}
        raise TopicLoraError(
            f"adapter.target_modules {_plain(config.target_modules)} matches nothing in the model.",  # type: ignore[attr-defined]
            f"Its linear layers: {', '.join(sorted(linears))}.",
        ) from None
    layers = adapted.get_base_model().named_modules()
    refuse_idle(model, [name for name, module in layers if isinstance(module, BaseTunerLayer)])
    remember_start(adapted)
    return adapted  # type: ignore[no-any-return]


def adapts_head(model: PeftModel) -> bool:
    """Whether the base's output head is among the adapted layers."""
    base: Any = model.get_base_model()
    return isinstance(base.get_output_embeddings(), BaseTunerLayer)


def _mixture_layers(model: PeftModel) -> list[str]:
    return [module.name for module in model.modules() if isinstance(module, TopicLoraLayer)]


def _off_budget(budget: tuple[str, int], model: PeftModel) -> str:
    kind, wanted = budget
    counted = dict(zip(("total", "activated"), count_parameters(model), strict=True))[kind]
    return f"rank {rank_of(model.peft_config['default'])}, {counted / wanted - 1:+.1%}"


def _plain(value: Any) -> str:
    return ", ".join(sorted(value)) if isinstance(value, (set, list)) else repr(value)


@contextmanager
def without_adapter(model: PeftModel) -> Iterator[None]:
    """The base model alone within the block; afterwards the same parameters train as before."""
    # peft freezes all of an adapter it turns off, and thaws all of it again, parts that were frozen included.
    trains = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        with model.disable_adapter():
            yield
    finally:
        for parameter, flag in trains:
            parameter.requires_grad_(flag)
