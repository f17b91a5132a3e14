"""Finished cells on disk as the stages leave them, made without a model: scores by question, costs, routing."""

from dataclasses import replace

import numpy as np

from topiclora_cli.ablation.finished import CellResult
from topiclora_cli.ablation.identity import create_cell
from topiclora_cli.runs.files import write_text
from topiclora_cli.runs.naming import BY_QUESTION, SUMMARY, named_folder
from topiclora_cli.runs.results.ablation import Cost
from topiclora_cli.runs.results.evaluation import EvalSummary, MeanScores, QuestionScores, TaskScores
from topiclora_cli.runs.results.files import write_result
from topiclora_cli.runs.results.record import EvalFacts, PeakMemory, StageRecord
from topiclora_cli.runs.results.training import TrainResult
from topiclora_cli.stages.request import asked_for

NONE = dict.fromkeys(("base", "base_stderr", "tuned_stderr", "delta", "delta_stderr"))


def task_scores(name, values, *, metric="acc", unit="share", better=True):
    """A task's scores by a headline that is a mean over questions."""
    figures = {**NONE, "unit": unit, "higher_is_better": better, "tuned": float(np.mean(values))}
    about = {"group": False, "depth": 0, "counted": True, "filter": "none", "metrics": {}}
    return TaskScores(task=name, metric=metric, count=len(values), **about, **figures)


def summary_of(answers, *, metric="acc", unit="share", better=True, **more):
    """An evaluation of answers: task -> what each question adds to the metric."""
    tasks = tuple(task_scores(n, v, metric=metric, unit=unit, better=better) for n, v in answers.items())
    mean = float(np.mean([task.tuned for task in tasks]))
    figures = {**NONE, "unit": unit, "higher_is_better": better, "tuned": mean}
    return EvalSummary("questions", MeanScores(of=tuple(answers), **figures), tasks, **more)


def finish_cell(folder, cell, answers, *, seconds=100.0, parameters=1000, peak=2.0, losses=None, **more):
    """Write a cell of a grid as if it were trained and scored; answers as in summary_of."""
    run = create_cell(folder, cell)
    stages = {}
    if cell.trained:
        write_text(run.path / "adapter" / "adapter_config.json", "{}")
        write_text(run.path / "adapter" / "adapter_model.safetensors", cell.folder)
        result = TrainResult(1, 10, 100, parameters, parameters // 2, {"step": 10, "loss": 1.0, "loss_kl": 0.25})
        stages["train"] = StageRecord(
            "done", "2026-01-01T00:00:00+00:00", seconds, peak=PeakMemory(peak), recipe="recipe.yaml", result=result
        )
    request = asked_for(cell.recipe, run, "eval")
    place = named_folder(run.path / "eval", None, default=",".join(cell.recipe.eval.tasks), request=request)
    scores = summary_of(answers, **more)
    by_question = {task: {f"{scores.tasks[0].metric},none": list(map(float, v))} for task, v in answers.items()}
    for task, values in (losses or {}).items():
        by_question[task]["choice_loss,none"] = list(map(float, values))
    write_result(place / BY_QUESTION, QuestionScores(by_question))
    write_result(place / SUMMARY, replace(scores, name=place.name))
    facts = EvalFacts(place.name, tuned=scores.mean.tuned)
    stages["eval"] = StageRecord("done", "2026-01-01T00:10:00+00:00", seconds / 4, peak=PeakMemory(1.0), result=facts)
    run.update(stages=stages)
    return run


def some_answers(random, tasks, questions, rate):
    """Right and wrong answers, right at about that rate."""
    return {f"task_{number:02}": (random.random(questions) < rate).astype(float) for number in range(tasks)}


def result_of(answers, *, losses=None, seed=0, cost=None, topics=None, **more):
    """What is read of such a cell: answers, and choice losses if any, of each task's questions."""
    scores = summary_of(answers, **more)
    by_question = {
        task: {f"{scores.tasks[0].metric},none": list(map(float, values))} for task, values in answers.items()
    }
    for task, values in (losses or {}).items():
        by_question[task]["choice_loss,none"] = list(map(float, values))
    return CellResult(scores, by_question, cost=cost or Cost(), folder=f"x-s{seed}", topics=topics)
