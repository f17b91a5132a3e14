"""lm-evaluation-harness on a model in this process, task by task, so that one which fails takes no other with it.

An adapter needs no export to be measured. Groups are aggregated by lm-eval's own classes, with its weights.
"""

import random
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.evaluation.harness import EvalRequest, quietly, reason
from topiclora_cli.evaluation.kept import KeptScores
from topiclora_cli.evaluation.loading import Tasks, in_own_order, prepare
from topiclora_cli.evaluation.metrics import Metric
from topiclora_cli.evaluation.results import EvalResults, Score
from topiclora_cli.evaluation.subject import Loaded, Subject
from topiclora_cli.runs.processes import in_first, process_index
from topiclora_cli.runs.progress import Advance

OURS = "topiclora_"  # before the names of our own tasks
_NOTE = 16  # characters of a task's name on a bar
BOOTSTRAPS = 1000  # draws for the error of a metric that is no mean
_SEEDED = ("random", "numpy", "torch", "fewshot")
_NUMBERS = (int, float, np.number)
_MERGED = ("results", "configs", "versions", "n-shot", "higher_is_better", "n-samples")


def run_harness(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    request: EvalRequest,
    tasks: Tasks,
    *,
    label: str,
    output_path: Path,
    advance: Advance = lambda questions, task: None,
) -> EvalResults:
    """Evaluate `model` as score_tasks does, keeping nothing for a next time."""
    return score_tasks(
        lambda: (model, tokenizer), request, tasks, label=label, output_path=output_path, advance=advance
    )


def score_tasks(
    load: Callable[[], Loaded],
    request: EvalRequest,
    tasks: Tasks,
    *,
    label: str,
    output_path: Path,
    kept: KeptScores | None = None,
    advance: Advance = lambda questions, task: None,
) -> EvalResults:
    """Evaluate a model and write lm-eval's own results file and samples under `output_path/label`.

    load: the model in evaluation mode and its tokenizer, called once a task is reached that `kept` has no scores of.
    advance: called with the number of questions done since the last call, count_questions(tasks, request) in all.

    Of several processes each scores its share, and the first writes.

    A task that fails is named in `failed`, its traceback is kept beside the results, and a group with one has no score.
    Raises TopicLoraError where a chat template is missing, or every task fails.
    """
    lm = Subject(load, request)
    raw: dict[str, Any] = {key: {} for key in (*_MERGED, "samples")}
    failed: dict[str, str] = {}
    began = time.time()
    try:
        for name, task in tasks.tasks.items():
            prepare(task, request)
            counted = _Counted(name, request.asks(name, len(task.eval_docs)), advance)
            one = in_first(partial(kept.find, name, task, request)) if kept is not None else None
            if one is None:
                lm.scorer.on_scored = counted.reach
                try:
                    one = {**_run_task(lm.scorer, name, task, request), "about": lm.about}
                except TopicLoraError:
                    raise
                except Exception as error:
                    failed[name] = reason(error)
                    _keep_traceback(output_path / label / f"failed_{name}.txt", error)
                    continue
                if kept is not None:
                    one = in_first(partial(kept.keep, name, task, request, one))
            counted.reach(1.0)
            for key in (*_MERGED, "samples"):
                raw[key].update(one[key])
            raw["about"] = one["about"]
    finally:
        lm.release()
        if raw["results"]:
            _aggregate(tasks, raw, failed)
            if process_index() == 0:
                _save(raw, request, label, output_path, began)
    if not raw["results"]:
        raise TopicLoraError(
            f"No task could be scored with the {label} model: {next(iter(failed.values()))}",
            f"The tracebacks are in {output_path / label}.",
        )
    return _results(label, tasks, raw, failed, request)


def count_questions(tasks: Tasks, request: EvalRequest) -> int:
    """How many questions the tasks ask, as far as the request goes."""
    return sum(request.asks(name, len(task.eval_docs)) for name, task in tasks.tasks.items())


class _Counted:
    """Turns the part of a task that is done into whole questions, each told of once."""

    def __init__(self, task: str, questions: int, advance: Advance) -> None:
        self.task, self.questions, self.advance, self.done = task, questions, advance, 0

    def reach(self, part: float) -> None:
        """That much of the task is done."""
        more = int(part * self.questions) - self.done
        if more > 0:
            self.done += more
            self.advance(more, self.task.removeprefix(OURS)[:_NOTE])


def _run_task(lm: Any, name: str, task: Any, request: EvalRequest) -> Mapping[str, Any]:
    from lm_eval import evaluate

    seed_everything(request)
    with quietly():
        raw = evaluate(
            lm,
            {"tasks": {name: task}},
            limit=request.limit,
            samples={name: list(request.samples[name])} if name in request.samples else None,
            system_instruction=request.system_instruction,
            apply_chat_template=request.chat_template,
            fewshot_as_multiturn=request.multiturn,
            bootstrap_iters=BOOTSTRAPS,
            confirm_run_unsafe_code=request.unsafe_code,
        )
    assert isinstance(raw, dict)
    return raw


def seed_everything(request: EvalRequest) -> None:
    """As simple_evaluate does, for tasks that sample."""
    of_python, of_numpy, of_torch, _ = request.seeds
    if of_python is not None:
        random.seed(of_python)
    if of_numpy is not None:
        np.random.seed(of_numpy)
    if of_torch is not None:
        torch.manual_seed(of_torch)


def _aggregate(tasks: Tasks, raw: dict[str, Any], failed: dict[str, str]) -> None:
    """Add lm-eval's aggregates to its results, for groups none of whose tasks failed."""
    raw["groups"], raw["group_subtasks"] = {}, {name: group.child_names for name, group in tasks.groups.items()}
    for name, group in tasks.groups.items():
        if not group.has_aggregation:
            continue
        missing = [task.task_name for task in group.get_all_tasks() if task.task_name not in raw["results"]]
        if missing:
            failed[name] = f"{', '.join(missing)} in it failed"
            continue
        raw["groups"][name] = group.aggregate(raw["results"])
        ways: dict[str, set[bool | None]] = {}
        for task in group.get_all_tasks():
            for metric, better in raw["higher_is_better"][task.task_name].items():
                ways.setdefault(metric, set()).add(better)
        directions = {metric: better.pop() if len(better) == 1 else None for metric, better in ways.items()}
        raw["higher_is_better"][name] = directions
    raw["results"].update(raw["groups"])


def _save(raw: dict[str, Any], request: EvalRequest, label: str, output_path: Path, began: float) -> None:
    from lm_eval.loggers import EvaluationTracker

    tracker = EvaluationTracker(output_path=str(output_path))
    tracker.general_config_tracker.log_experiment_args(
        model_source="hf",
        model_args={"pretrained": label},
        system_instruction=request.system_instruction,
        chat_template=raw["about"]["chat_template"],
        fewshot_as_multiturn=request.multiturn,
    )
    settings = {
        **{"limit": request.limit, "bootstrap_iters": BOOTSTRAPS, "batch_size": request.batch_size},
        "gen_kwargs": dict(request.gen_kwargs) or None,
        **{f"{of}_seed": seed for of, seed in zip(_SEEDED, request.seeds, strict=True)},
    }
    stored = {key: value for key, value in raw.items() if key not in ("samples", "about")}
    stored |= {"config": {"model": "hf", "model_args": {"pretrained": label}, **settings}, "date": began}
    with quietly():
        stored |= {**_environment(), **raw["about"]["tokenizer"]}
        tracker.save_results_aggregated(results=stored, samples=raw["samples"])
        for task, rows in raw["samples"].items():
            tracker.save_results_samples(task_name=task, samples=[dict(row) for row in rows])


@cache
def _environment() -> dict[str, Any]:
    """lm-eval's record of the machine, which takes seconds to make."""
    from lm_eval.loggers.utils import add_env_info

    facts: dict[str, Any] = {}
    add_env_info(facts)
    return facts


def _keep_traceback(path: Path, error: Exception) -> None:
    if process_index() > 0:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")


def _results(
    label: str, tasks: Tasks, raw: Mapping[str, Any], failed: dict[str, str], request: EvalRequest
) -> EvalResults:
    scores = {}
    for name, depth in tasks.order.items():
        if name not in raw["results"]:
            continue
        metrics = {metric.key: metric for metric in _metrics(name, raw)}
        if group := tasks.groups.get(name):
            metrics = {key: replace(metric, parts=_parts(group, key, raw)) for key, metric in metrics.items()}
        else:
            task, samples = tasks.tasks[name], raw["samples"][name]
            metrics = {key: _with_scores(metrics[key], task, samples) for key in in_own_order(task, list(metrics))}
        if not metrics and request.predict_only:
            continue
        if not metrics:
            failed[name] = "lm-eval gives it no metric"
            continue
        best = tasks.headline(name, list(metrics), request.metrics)
        count = raw["results"][name]["sample_len"]
        scores[name] = Score(name, metrics, best, count, group=name in tasks.groups, depth=depth)
    return EvalResults(label, scores, [name for name in tasks.counted if name in scores], failed)


def _metrics(name: str, raw: Mapping[str, Any]) -> Sequence[Metric]:
    """Every number that lm-eval reports, save its placeholder for a task that only writes answers down."""
    reported = raw["results"][name]
    directions = raw["higher_is_better"].get(name, {})
    found = []
    for key, value in reported.items():
        metric, comma, filter_name = key.partition(",")
        if not comma or metric.endswith("_stderr") or metric == "bypass" or not isinstance(value, _NUMBERS):
            continue
        stderr = reported.get(f"{metric}_stderr,{filter_name}")
        error = float(stderr) if isinstance(stderr, _NUMBERS) else None
        found.append(Metric(metric, filter_name, float(value), error, directions.get(metric)))
    return found


def _with_scores(metric: Metric, task: Any, samples: Sequence[Mapping[str, Any]]) -> Metric:
    from lm_eval.api.metrics import mean

    each = [row[metric.name] for row in samples if row["filter"] == metric.filter and metric.name in row]
    aggregate = task.aggregation().get(metric.name, mean)
    return replace(metric, scores=each, aggregate=None if aggregate is mean else aggregate)


def _parts(group: Any, key: str, raw: Mapping[str, Any]) -> dict[str, float]:
    """Each task's weight in a group's metric, by lm-eval's settings of the group."""
    metric = key.partition(",")[0]
    by_size = next(each.weight_by_size for each in group.aggregate_metric_list if each.metric == metric)
    # lm-eval counts a task twice that two parts of a group hold.
    sizes: dict[str, float] = {}
    for name in (task.task_name for task in group.get_all_tasks()):
        if key in raw["results"][name]:
            sizes[name] = sizes.get(name, 0.0) + (raw["results"][name]["sample_len"] if by_size else 1)
    return {name: size / sum(sizes.values()) for name, size in sizes.items()}
