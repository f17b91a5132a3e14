"""Intricate topics: how fine they are, how many experts share them, how wrong their tags may be, two in one prompt."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from topiclora_cli.ablation.suites.sizes import Sizes
from topiclora_cli.ablation.suites.suite import Made, SuiteCell
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.evaluation.probes.apply import TWO_TOPICS
from topiclora_cli.recipe import Recipe, altered
from topiclora_cli.recipe.adapter.experts import ExpertsSection
from topiclora_cli.recipe.data import EMBEDDED
from topiclora_cli.stages.counted import count
from topiclora_cli.stages.training_data import named_taxonomy
from topiclora_cli.topics.taxonomy import LEAST_TASKS
from topiclora_cli.topics.taxonomy_file import PACKAGED

QUESTIONS = 20  # of each task, that join two topics
EXPERTS, NOISE = (2, 4, 8, 16, 32), (0.25, 0.5, 1.0)
_QUICK_EXPERTS, _QUICK_NOISE = (2, 16), (0.5, 1.0)
_NOTED = 0.05  # a share of the size that a cell may miss it by without a word
_INDUCED = (16, 64)  # topics to find where the recipe finds its own
_GRAINS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "groups": ("Would the taxonomy's groups do in place of its topics?", {"graph.level": "groups"}),
    "common": (
        "Would topics of three tasks or more do?",
        {"graph.level": "topics", "graph.min_tasks": LEAST_TASKS},
    ),
    "all": ("Do topics pay of which the taxonomy has hardly a task?", {"graph.level": "topics", "graph.min_tasks": 0}),
    "induced": (
        "Is a taxonomy worth more than topics found in the prompts themselves?",
        {
            **{"graph.taxonomy": "induced", "graph.level": "topics", "graph.min_tasks": None},
            **{"graph.exclude_tasks": [], "graph.tag_noise": 0.0},
        },
    ),
}


def make(recipe: Recipe, *, quick: bool) -> Made:
    """Cells on topics for a mixture that they guide; raises TopicLoraError for a recipe without topics.

    All cells are asked prompts that join two topics, too, and their scores sorted by how unsure the graph of the recipe
    itself is of a question's topics.
    """
    if not recipe.needs_graph or not isinstance(recipe.adapter, ExpertsSection):
        raise TopicLoraError(
            f"The suite topics asks what topics do, and this recipe trains {recipe.adapter.method} without any.",
            "Take a recipe of topiclora or topic-perft: --set adapter.method=topiclora",
        )
    sizes, notes = Sizes(recipe), list[str]()
    plain = (
        "What does a plain LoRA of as many parameters make of two topics, and of topics that the graph is unsure of?"
    )
    cells = [SuiteCell("lora", plain, sizes.method("lora", sizes.budget()))]
    if recipe.loss.kl.weight:
        cells.append(
            SuiteCell(
                "kl_off",
                "Do two topics, or unsure ones, ask more of routers that no prior guides?",
                {"loss.kl.weight": 0.0},
            )
        )
    cells += _grains(recipe)
    for name, changes in _experts(recipe.adapter, _QUICK_EXPERTS if quick else EXPERTS):
        try:
            cell, off = _of_one_size(name, changes, recipe, sizes)
        except TopicLoraError as error:
            notes.append(f"{name} is left out: {error.message}")
            continue
        cells.append(cell)
        if abs(off) > _NOTED:
            notes.append(f"{name} is {100 * off:+.0f} % off the recipe's parameters: ranks are whole numbers.")
    if _has_tags(recipe):
        cells += _noise(_QUICK_NOISE if quick else NOISE, recipe.graph.tag_noise)
    else:
        notes.append("The cells on wrong tags are left out: no tags of prompts teach this recipe's graph.")
    kept = []
    for cell in cells:
        why = _too_few_topics(altered(recipe, cell.changes.items(), where=cell.name))
        if why is None:
            kept.append(cell)
        else:
            notes.append(f"{cell.name} is left out: {why}")
    asked = {"eval.probes": [TWO_TOPICS], "eval.probe_questions": 1 if quick else QUESTIONS}
    return Made(kept, {**asked, "eval.by_entropy": True}, notes)


def _grains(recipe: Recipe) -> Iterator[SuiteCell]:
    """Coarser and finer topics than the recipe's."""
    graph = recipe.graph
    if graph.taxonomy == "induced":
        for number in _INDUCED:
            if number != graph.induced_topics:
                yield SuiteCell(f"topics={number}", f"Would {number} topics do?", {"graph.induced_topics": number})
        return
    least = graph.min_tasks if graph.min_tasks is not None else LEAST_TASKS if graph.taxonomy in PACKAGED else 0
    own = "groups" if graph.level == "groups" else {0: "all", LEAST_TASKS: "common"}.get(least)
    for name, (question, changes) in _GRAINS.items():
        # Of a file all topics were listed on purpose, and few have tasks.
        if name != own and (name != "common" or graph.taxonomy in PACKAGED):
            there = graph.model_dump()
            new = {key: value for key, value in changes.items() if there[key.removeprefix("graph.")] != value}
            yield SuiteCell(f"topics={name}", question, new)


def _experts(own: ExpertsSection, numbers: Sequence[int]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Other numbers of experts, each with as many of them active as the recipe has, and with as large a share."""
    assert isinstance(own.num_experts, int)
    for number in numbers:
        if number == own.num_experts:
            continue
        changes = {"adapter.num_experts": number}
        yield f"experts={number}", changes
        if own.top_k is not None:
            share = max(1, round(number * own.top_k / own.num_experts))
            if share != own.top_k:
                yield f"share-experts={number}", {**changes, "adapter.top_k": share}


def _of_one_size(name: str, changes: Mapping[str, Any], recipe: Recipe, sizes: Sizes) -> tuple[SuiteCell, float]:
    """The cell at the recipe's own size, and by what share of it it misses that.

    Raises TopicLoraError where no rank fits, or settings contradict.
    """
    sized = sizes.resized(changes)
    section = altered(recipe, sized.items(), where=name).adapter
    assert isinstance(section, ExpertsSection)
    counted, active = count(section, sizes.skeleton), section.top_k or "all"
    question = (
        f"Are {section.num_experts} experts of rank {counted.rank}, {active} of them active, better than the recipe's "
        f"{sizes.recipe.adapter.graph_experts} of rank {sizes.own.rank}?"
    )
    return SuiteCell(name, question, sized), counted.total / sizes.own.total - 1


def _noise(shares: Sequence[float], own: float) -> Iterator[SuiteCell]:
    for share in shares:
        if share != own:
            question = (
                f"What is lost where {100 * share:.0f} % of the prompts that teach the graph have others' topics?"
            )
            yield SuiteCell(f"tag_noise={share:g}", question, {"graph.tag_noise": share})
    question = "Are wrong tags as bad as topics that go to the wrong experts, each to the same one every time?"
    yield SuiteCell("shuffled", question, {"graph.control": "shuffled"})


def _has_tags(recipe: Recipe) -> bool:
    graph = recipe.graph
    tagged = any(source.topics is not None or source.source == EMBEDDED for source in recipe.data.all_sources)
    return tagged and graph.tagged_prompts > 0 and graph.taxonomy != "induced"


def _too_few_topics(recipe: Recipe) -> str | None:
    """Why there are too few topics for the experts, None where there are enough or nobody counts them yet."""
    graph, experts = recipe.graph, recipe.adapter.graph_experts
    if not recipe.needs_graph or experts == "auto":
        return None
    topics = graph.induced_topics if graph.taxonomy == "induced" else len(named_taxonomy(recipe).names)
    return f"there are {topics} topics for {experts} experts." if topics is not None and topics < experts else None
