"""The recipes of a run that gets a topic more, or loses one, and what stands for old examples that are gone."""

from collections.abc import Iterable
from typing import Any

from topiclora_cli.data import Row
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import Recipe, altered
from topiclora_cli.recipe.data import DataSection, SourceSection
from topiclora_cli.topics.store import TopicGraph
from topiclora_cli.topics.taxonomy import Taxonomy, Topic

_WHERE = "--add-topic"
_TRAINED_BY = ("data", "train", "loss", "eval")


def growing_recipe(recipe: Recipe, topic: str, data: str, experts: int, overrides: Iterable[tuple[str, Any]]) -> Recipe:
    """What the new expert is trained by: the run's recipe on the new data alone, without what would move the others.

    Raises TopicLoraError for an override that cannot be, or that is none of this training's.
    """
    overrides = list(overrides)
    for key, _ in overrides:
        if key.split(".")[0] not in _TRAINED_BY:
            raise TopicLoraError(
                f"--add-topic: {key} stays as the run has it.", f"Set keys of {', '.join(_TRAINED_BY)} alone."
            )
    section = {**_common(recipe.data), "source": data, "topics": [topic], "streaming": False, "limit": None}
    if isinstance(recipe.data.validation, int):  # counted on the old data, it may be all that there is of the new
        section.pop("validation")
    fixed: list[tuple[str, Any]] = [("data", section), ("adapter.num_experts", experts)]
    if recipe.eval.questions is not None:  # put by the old data's template
        fixed.append(("eval.questions", None))
    if recipe.train.weight_decay:
        fixed.append(("train.weight_decay", 0.0))
    return altered(recipe, [*fixed, *overrides], where=_WHERE)


def grown_recipe(recipe: Recipe, growing: Recipe) -> Recipe:
    """What the new run says of itself: the growing recipe, with the old sources before the new one."""
    old = [_source(source) for source in recipe.data.all_sources]
    new = _source(growing.data)
    if weights := [source["weight"] for source in old if source.get("weight")]:
        new["weight"] = sum(weights) / len(weights)
    data = {**_common(recipe.data), **_common(growing.data), "sources": [*old, new]}
    if recipe.data.limit is not None and recipe.data.sources:
        data["limit"] = recipe.data.limit
    questions = recipe.eval.model_dump(mode="json", include={"questions"})["questions"]
    return altered(growing, [("data", data), ("eval.questions", questions)], where=_WHERE)


def shrunk_recipe(recipe: Recipe, topic: str, experts: int) -> Recipe:
    """What a run without a topic says of itself: sources that are of that topic alone have gone with it."""
    kept = [_source(source) for source in recipe.data.sources if source.topics != [topic]]
    for source in kept:
        if isinstance(source.get("topics"), list):
            source["topics"] = [name for name in source["topics"] if name != topic]
    fewer: list[tuple[str, Any]] = [("adapter.num_experts", experts)]
    if kept:
        fewer.append(("data.sources", kept))
    return altered(recipe, fewer, where="--drop-topic")


def stand_ins(graph: TopicGraph) -> list[Row]:
    """A graph's topics as examples."""
    topics = zip(graph.topics, graph.descriptions, strict=True)
    taxonomy = Taxonomy(tuple(Topic(name, text) for name, text in topics))
    return [Row(text, f" {name}") for text, name in zip(taxonomy.texts, taxonomy.names, strict=True)]


def _common(data: DataSection) -> dict[str, Any]:
    """The keys that stand beside the sources, as they were said."""
    own = set(DataSection.model_fields) - set(SourceSection.model_fields) - {"sources", "sources_file"}
    return data.model_dump(mode="json", include=own, exclude_defaults=True)


def _source(section: SourceSection) -> dict[str, Any]:
    """The keys of a source that are not as they are by default."""
    return section.model_dump(mode="json", include=set(SourceSection.model_fields), exclude_defaults=True)
