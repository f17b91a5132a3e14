"""Several models on the same questions, one in memory at a time, beside the first of them."""

import gc
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.evaluation.by_topic import asked_texts
from topiclora_cli.evaluation.comparison.compare import compare_folders
from topiclora_cli.evaluation.copy_notes import copy_notes
from topiclora_cli.evaluation.loading import load_tasks
from topiclora_cli.evaluation.results import EvalResults, summary
from topiclora_cli.evaluation.running import count_questions, score_tasks
from topiclora_cli.recipe import Recipe, dump_recipe
from topiclora_cli.runs.files import write_text
from topiclora_cli.runs.naming import MODELS, finished, named_folder
from topiclora_cli.runs.processes import in_first, process_index
from topiclora_cli.runs.progress import Progress
from topiclora_cli.runs.results.files import write_result
from topiclora_cli.runs.results.models import Measured, ModelScores, Tested
from topiclora_cli.runs.run import RECIPE
from topiclora_cli.stages.backend import through_backend
from topiclora_cli.stages.contenders import Contender, contenders
from topiclora_cli.stages.models_by_topic import models_by_topic, sort_questions, write_models_by_topic
from topiclora_cli.stages.training_data import eval_request


def evaluate_models(
    names: Sequence[str],
    recipe: Recipe,
    parent: Path,
    progress: Progress,
    *,
    name: str | None = None,
    reuse: bool | None = None,
) -> ModelScores:
    """Every model that is named on the same questions, each loaded once, where something of it is still to be scored.

    The outcome lies in `parent/NAME`: lm-eval's files in a folder for each model, and what they found side by side.
    None is overwritten: scores that are kept give what they gave, and where they are not to be taken (reuse False) the
    outcome gets a folder beside. Raises TopicLoraError as `contenders`, `sort_questions` and
    `score_tasks` do.
    """
    if recipe.eval.by_entropy:
        raise TopicLoraError(
            "eval.by_entropy goes by the topics of one run's graph, and here are several models.",
            "Evaluate the run alone (--run), or leave --by-entropy out.",
        )
    models, request = contenders(names, recipe), eval_request(recipe)
    tasks = load_tasks(request)
    notes = tuple(copy_notes(tasks))
    sorting = None
    if recipe.eval.by_topic:
        sorting = sort_questions(names, parent, asked_texts(tasks, request), progress)
        progress.say(f"Questions are sorted by the topic graph of {sorting.graph}.")
    kept = {model.label: model.kept(parent, reads=reuse is not False) for model in models}
    asked = {
        **recipe.model_dump(mode="json", include={"eval", "seed"}),
        **{"models": {label: each.model for label, each in kept.items()}, "precision": recipe.train.precision},
        **({} if sorting is None else {"graph": sorting.sha256}),
    }
    again = 0
    while reuse is False and finished(parent, MODELS, asked):
        again += 1
        asked = {**asked, "again": again}
    default = f"{','.join(recipe.eval.tasks)}-{len(models)}-models"
    folder = in_first(lambda: named_folder(parent, name, default=default, request=asked))
    results: list[EvalResults] = []
    for model in models:
        with progress.track(f"questions, {model.label}", count_questions(tasks, request)) as advance:
            results.append(
                score_tasks(
                    through_backend(model.recipe, model.load, model.adapter),
                    *(request, tasks),
                    label=model.label,
                    output_path=folder,
                    kept=kept[model.label],
                    advance=advance,
                )
            )
        _let_go()
    measured = [
        Measured(
            *(model.label, given, kept[model.label].model),
            replace(summary(results[0] if model is not models[0] else None, found, name=folder.name), notes=notes),
        )
        for model, given, found in zip(models, names, results, strict=True)
    ]
    if process_index() > 0:
        return ModelScores(folder.name, tuple(measured))
    write_text(folder / RECIPE, dump_recipe(recipe))
    by_topic = None if sorting is None else models_by_topic(sorting, measured, results)
    result = ModelScores(folder.name, (measured[0], *_tested(folder, models, results, measured)), by_topic)
    if by_topic is not None:
        write_models_by_topic(folder, by_topic)
    write_result(folder / MODELS, result)
    return result


def _let_go() -> None:
    """Make room for the next model."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _tested(
    folder: Path, models: Sequence[Contender], results: Sequence[EvalResults], measured: Sequence[Measured]
) -> list[Measured]:
    """All but the first model, with the tests of their differences from it."""
    tasks = [row for row in results[0].scores.values() if not row.group and all(row.name in r.scores for r in results)]
    if not tasks or len(models) == 1:
        return list(measured[1:])
    keys = {task.name: task.headline for task in tasks}
    found = compare_folders([folder / model.label for model in models], keys)
    tests = [
        {
            row.task: Tested(
                *(row.difference.low, row.difference.high, row.p, row.test),
                p_holm=None if math.isnan(row.p_holm) else row.p_holm,
            )
            for row in each.rows
        }
        for each in found
    ]
    return [
        Measured(one.label, one.asked, one.content, one.scores, test)
        for one, test in zip(measured[1:], tests, strict=True)
    ]
