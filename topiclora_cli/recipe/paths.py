"""Relative paths in a recipe, made absolute when a run starts: it is to find its files from wherever it goes on."""

from collections.abc import Iterator, Mapping
from glob import glob
from pathlib import Path
from typing import Any

from topiclora_cli.recipe.data import EMBEDDED, SourceSection, TopicsFile
from topiclora_cli.recipe.load import altered
from topiclora_cli.recipe.schema import Recipe


def anchored(recipe: Recipe) -> Recipe:
    """The recipe with the whole path of every file, folder and pattern that it names relatively, seen from here."""
    changes: list[tuple[str, Any]] = [(key, place) for key, path in _paths(recipe) if (place := _place(path)) != path]
    cells = recipe.ablation.cells
    in_full = {name: anchored_overrides(recipe, overrides) for name, overrides in cells.items()}
    if in_full != cells:
        changes.append(("ablation.cells", in_full))
    return altered(recipe, changes, where=recipe.name) if changes else recipe


def anchored_overrides(recipe: Recipe, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides of a cell with the whole path of what they name relatively, seen from here."""
    if not any(isinstance(value, str) and _place(value) != value for value in overrides.values()):
        return dict(overrides)
    changed = altered(recipe, overrides.items(), where="ablation.cells")
    places = {key: _place(path) for key, path in _paths(changed)}
    return {key: places.get(key, value) for key, value in overrides.items()}


def _paths(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Keys whose values may be paths, with the values."""
    yield "model.name", recipe.model.name
    if recipe.graph.taxonomy not in ("bigbench", "mmlu", "induced"):
        yield "graph.taxonomy", recipe.graph.taxonomy
    for number, task in enumerate(recipe.eval.tasks):
        if task.endswith((".yaml", ".yml")):
            yield f"eval.tasks.{number}", task
    if recipe.eval.include_path is not None:
        yield "eval.include_path", recipe.eval.include_path
    if isinstance(recipe.eval.samples, str):
        yield "eval.samples", recipe.eval.samples
    if recipe.eval.datasets_dir is not None:
        yield "eval.datasets_dir", recipe.eval.datasets_dir
    if recipe.eval.questions is not None:
        yield "eval.questions.source", recipe.eval.questions.source
    for number, folder in enumerate(recipe.adapter.trained):
        yield f"adapter.init_from.{number}", folder
    yield from _source_paths("data", recipe.data)
    for number, source in enumerate(recipe.data.sources):
        yield from _source_paths(f"data.sources.{number}", source)


def _source_paths(key: str, source: SourceSection) -> Iterator[tuple[str, str]]:
    if source.source is not None and source.source != EMBEDDED:
        yield f"{key}.source", source.source
    if isinstance(source.topics, TopicsFile):
        yield f"{key}.topics.file", source.topics.file


def _place(path: str) -> Any:
    return str(Path(path).absolute()) if Path(path).exists() or glob(path, recursive=True) else path
