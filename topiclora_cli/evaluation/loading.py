"""The tasks that a request names, loaded and tried before any model is: what cannot be scored is said at once."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from topiclora_cli.errors import TopicLoraError, nearest
from topiclora_cli.evaluation.choice_loss import add_choice_loss, add_to_group
from topiclora_cli.evaluation.choosing import check_samples
from topiclora_cli.evaluation.harness import EvalRequest, make_task_manager, one_line, quietly
from topiclora_cli.evaluation.local_data import local_datasets, refuse_absent_shots
from topiclora_cli.evaluation.metrics import headline, matches

if TYPE_CHECKING:
    from lm_eval.api.group import Group
    from lm_eval.api.task import Task


@dataclass(frozen=True)
class Tasks:
    """lm-eval's tasks and groups by name, each once, whoever named it.

    order: what to list -> the number of groups it stands in. counted: what a mean is taken of; a group with an
    aggregate of lm-eval's counts as one, a task that it holds does not count again. known_as: what else `eval.metrics`
    may call a task or group by, nearest first: itself, its groups, the name that was asked for.
    """

    tasks: Mapping[str, "Task"]
    groups: Mapping[str, "Group"]
    order: Mapping[str, int]
    counted: Sequence[str]
    known_as: Mapping[str, Sequence[str]]

    def headline(self, name: str, available: Sequence[str], wanted: Sequence[str] | Mapping[str, str]) -> str:
        """The metric to go by of a task or group, by `eval.metrics`, else by the rule of metrics.headline."""
        if isinstance(wanted, Mapping):
            wanted = [wanted[known] for known in self.known_as[name] if known in wanted][:1]
        return headline(available, wanted)


def load_tasks(request: EvalRequest) -> Tasks:
    """Load every task of the request and try it on a question, with answers made up.

    Raises TopicLoraError for a task that nobody knows, whose data or packages are not here, that runs a model's code
    without leave to, or that no question can be posed of; and for a metric that no task has.
    """
    manager = make_task_manager(request)
    if request.unsafe_code:
        os.environ.setdefault("HF_ALLOW_CODE_EVAL", "1")
    tasks: dict[str, Any] = {}
    groups: dict[str, Any] = {}
    roots: list[str] = []
    known_as: dict[str, list[str]] = {}
    for asked in request.tasks:
        for name in manager.match_tasks([asked]):
            entry = manager.task_index.get(name)
            # Loading such a task may fetch what judges its answers, which is no use without leave.
            _refuse_code(name, bool(entry and (entry.cfg or {}).get("unsafe_code")), request)
            with quietly(downloads=True), one_line(name), local_datasets(request.datasets_dir):
                loaded = manager.load([name])
            for task in loaded["tasks"].values():
                if request.predict_only:
                    task.override_metric("bypass")
                else:
                    add_choice_loss(task)
            for group in () if request.predict_only else loaded["groups"].values():
                add_to_group(group)
            inside = {child for group in loaded["groups"].values() for child in group.child_names}
            names = [*loaded["groups"], *loaded["tasks"]]
            roots += [each for each in names if each not in inside]
            for each, task in loaded["tasks"].items():
                if each in tasks and tasks[each].dump_config() != task.dump_config():
                    raise TopicLoraError(
                        f"{name} holds the task {each} with other settings than what was named before it.",
                        "Evaluate the two one by one.",
                    )
                tasks.setdefault(each, task)
            groups.update(loaded["groups"])
            for each in names:
                holders = [g for g in reversed(list(loaded["groups"])) if each in _descendants(groups, g)]
                known_as[each] = list(dict.fromkeys([each, *known_as.get(each, ()), *holders, name, asked]))
    counted = list(dict.fromkeys(each for root in roots for each in _aggregates(groups, root)))
    inner = {child for each in counted for child in _descendants(groups, each)}
    order: dict[str, int] = {}
    for each, depth in (row for root in roots if root not in inner for row in _listed(groups, root, 0)):
        order.setdefault(each, depth)
    for name, task in tasks.items():
        _refuse(name, task, request)
    reports = {name: _tried(name, task, request) for name, task in tasks.items()}
    check_samples(request.samples, {name: len(task.eval_docs) for name, task in tasks.items()})
    if not request.predict_only:
        _check_metrics(request.metrics, groups, known_as, reports)
    return Tasks(
        tasks=tasks,
        groups=groups,
        order=order,
        counted=[each for each in counted if each not in inner],
        known_as=known_as,
    )


def prepare(task: Any, request: EvalRequest) -> None:
    """Set a task's shots, their seed and its generation as lm-eval's simple_evaluate does, for every model alike."""
    if request.gen_kwargs and task.get_config("output_type") == "generate_until":
        task.set_config(key="generation_kwargs", value=dict(request.gen_kwargs), update=True)
    shots = task.get_config("num_fewshot")
    if request.num_fewshot is not None and shots != 0:
        shots = request.num_fewshot
    task.set_config(key="num_fewshot", value=shots or 0)
    task.set_fewshot_seed(seed=request.seeds[3])


def in_own_order(task: Any, keys: Sequence[str]) -> list[str]:
    """Metrics as `name,filter` in the order in which the task lists them, filters likewise."""
    listed = list(task.aggregation())
    return sorted(keys, key=lambda key: listed.index(m) if (m := key.partition(",")[0]) in listed else len(listed))


def _aggregates(groups: Mapping[str, Any], name: str) -> Iterator[str]:
    if name not in groups or groups[name].has_aggregation:
        yield name
    else:
        for child in groups[name].child_names:
            yield from _aggregates(groups, child)


def _descendants(groups: Mapping[str, Any], name: str) -> Iterator[str]:
    for child in groups[name].child_names if name in groups else ():
        yield child
        yield from _descendants(groups, child)


def _listed(groups: Mapping[str, Any], name: str, depth: int) -> Iterator[tuple[str, int]]:
    # A group without an aggregate has no score to stand above its tasks'.
    shown = name not in groups or groups[name].has_aggregation
    if shown:
        yield name, depth
    for child in groups[name].child_names if name in groups else ():
        yield from _listed(groups, child, depth + shown)


def _refuse_code(name: str, runs_code: bool, request: EvalRequest) -> None:
    if runs_code and not request.unsafe_code:
        raise TopicLoraError(
            f"The task {name!r} runs code that the model writes.",
            "Where that can do no harm, say in a container: --unsafe-code (eval.unsafe_code: true)",
        )


def _refuse(name: str, task: Any, request: EvalRequest) -> None:
    _refuse_code(name, getattr(task, "UNSAFE_CODE", False), request)
    if getattr(task, "MULTIMODAL", False):
        raise TopicLoraError(f"The task {name!r} shows images or plays sound to the model.", "Name a task in text.")


def _tried(name: str, task: Any, request: EvalRequest) -> list[str]:
    """The metrics of one question with made-up answers, those that the task lists where such answers do not do."""
    from lm_eval import evaluate
    from lm_eval.models.dummy import DummyLM

    prepare(task, request)
    refuse_absent_shots(name, task)
    with quietly(), one_line(name):
        task.build_all_requests(limit=1, fewshot_as_multiturn=True)
    declared = [f"{metric},{each.name}" for each in task._filters for metric in task.aggregation()]
    try:
        with quietly():
            raw = evaluate(
                DummyLM(),
                {"tasks": {name: task}},
                limit=1,
                bootstrap_iters=0,
                fewshot_as_multiturn=True,
                confirm_run_unsafe_code=True,
            )
    except ImportError as error:
        with one_line(name):
            raise error
    except Exception:  # a made-up answer need not be one that the task can judge
        return in_own_order(task, declared)
    assert raw is not None
    return in_own_order(task, [key for key in raw["results"][name] if "," in key and "_stderr," not in key])


def _check_metrics(
    wanted: Sequence[str] | Mapping[str, str],
    groups: Mapping[str, Any],
    known_as: Mapping[str, Sequence[str]],
    reports: Mapping[str, Sequence[str]],
) -> None:
    if not isinstance(wanted, Mapping):
        everything = list(dict.fromkeys(key for keys in reports.values() for key in keys))
        for metric in wanted:
            _find_metric(metric, everything, "the tasks have")
        return
    names = {each for known in known_as.values() for each in known}
    for name, metric in wanted.items():
        if name not in names:
            raise TopicLoraError(f"eval.metrics: {name!r} is no task to evaluate.", nearest(name, names))
        keys = list(dict.fromkeys(key for task, own in reports.items() if name in known_as[task] for key in own))
        if name in groups and groups[name].has_aggregation:
            aggregated = {each.metric for each in groups[name].aggregate_metric_list}
            keys = [key for key in keys if key.partition(",")[0] in aggregated]
        _find_metric(metric, keys, f"{name} has")


def _find_metric(metric: str, keys: Sequence[str], owner: str) -> None:
    if not any(matches(metric, key) for key in keys):
        known = dict.fromkeys(key.removesuffix(",none") for key in keys)
        raise TopicLoraError(f"eval.metrics: {owner} no metric {metric!r}.", f"There are: {' '.join(known)}.")
