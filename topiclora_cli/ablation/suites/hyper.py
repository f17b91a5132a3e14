"""How much hangs on each setting: one changed at a time, everything else as in the recipe."""

from collections.abc import Iterator
from typing import Any

from topiclora_cli.ablation.suites.sizes import Sizes
from topiclora_cli.ablation.suites.suite import Made, SuiteCell
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import Recipe
from topiclora_cli.recipe.adapter.experts import ExpertsSection

KL_WEIGHTS = (0.0, 0.01, 0.05, 0.1, 0.5, 1.0)
TEMPERATURES = (0.5, 2.0)
TOP_K = (1, 2, 4, None)
RANKS = (4, 8, 16)
ROUTER_RATES = (1.0, 3.0, 10.0, 30.0)  # times the rate of all else
_QUICK = (
    *("kl.weight=0", "kl.weight=0.1", "kl.weight=1", "kl.temperature=2", "router_temperature=2"),
    *("top_k=1", "top_k=all", "r=4", "r=16", "kl.layers=all", "keys=trained"),
)


def make(recipe: Recipe, *, quick: bool) -> Made:
    """The settings of a mixture that topics guide; raises TopicLoraError for a recipe without topics."""
    section = recipe.adapter
    if not recipe.needs_graph or not isinstance(section, ExpertsSection):
        raise TopicLoraError(
            f"The suite hyper varies the settings of a topic mixture, and this recipe trains {section.method} without "
            "topics.",
            "Take a recipe of topiclora or topic-perft, or vary keys of your own with --grid.",
        )
    cells = [*_of_the_kl(recipe), *_of_the_router(recipe, section), *_of_the_rank(section, Sizes(recipe))]
    return Made([cell for cell in cells if not quick or cell.name in _QUICK])


def _of_the_kl(recipe: Recipe) -> Iterator[SuiteCell]:
    kl = recipe.loss.kl
    # The weight falls to the same part of its peak as in the recipe.
    falls_to = kl.floor / kl.weight if kl.weight else 0.1
    for weight in KL_WEIGHTS:
        changes: dict[str, Any] = {"loss.kl.weight": weight}
        if weight not in (0.0, kl.weight):
            changes["loss.kl.floor"] = weight * falls_to
        yield SuiteCell(f"kl.weight={weight:g}", "How strongly is routing to follow the topic prior?", changes)
    for temperature in TEMPERATURES:
        yield SuiteCell(
            f"kl.temperature={temperature:g}",
            "How sharply are prior and routing to be compared?",
            {"loss.kl.temperature": temperature},
        )
    for layers in ("all", "top_half"):
        yield SuiteCell(f"kl.layers={layers}", "Which layers are to follow the prior?", {"loss.kl.layers": layers})


def _of_the_router(recipe: Recipe, section: ExpertsSection) -> Iterator[SuiteCell]:
    for temperature in TEMPERATURES:
        yield SuiteCell(
            f"router_temperature={temperature:g}",
            "How sharply is a router to choose?",
            {"adapter.router_temperature": temperature},
        )
    experts = section.fewest_experts
    for number in TOP_K:
        if number is None or (experts != "auto" and number < experts):
            yield SuiteCell(
                f"top_k={number or 'all'}", "How many experts is a token to pass through?", {"adapter.top_k": number}
            )
    for times in ROUTER_RATES:
        rate = times * recipe.train.learning_rate
        yield SuiteCell(f"router_rate={rate:g}", "How fast are routers to learn?", {"train.router_learning_rate": rate})
    for trained in (False, True):
        yield SuiteCell(
            f"keys={'trained' if trained else 'frozen'}",
            "May experts' keys leave the topics' vectors?",
            {"adapter.train_keys": trained},
        )


def _of_the_rank(section: ExpertsSection, sizes: Sizes) -> Iterator[SuiteCell]:
    own = sizes.own.rank
    for rank in RANKS:
        if rank != own:
            resized = {"adapter.budget": None, "adapter.r": rank}
            question = "How large is an expert to be, whatever all of them cost?"
            yield SuiteCell(f"r={rank}", question, {**resized, **sizes.slope(resized)})
    for rank in RANKS:
        number = section.num_experts
        experts = number * own // rank if number != "auto" else 0
        if rank != own and experts >= max(2, section.top_k or 1, section.shared_experts):
            yield SuiteCell(
                f"r_at_one_size={rank}",
                f"At one size, do {experts} experts of rank {rank} do better?",
                sizes.resized({"adapter.num_experts": experts}),
            )
