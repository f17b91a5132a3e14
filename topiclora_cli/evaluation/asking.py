"""The questions of lm-eval's tasks as they are posed, to be put to a model again and again under other conditions.

They are made once and scored by lm-eval's own filters and metrics, task by task, as an evaluation scores them: where
nothing else is changed, so is no digit.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.evaluation.choice_loss import loss_of_choice, right_places
from topiclora_cli.evaluation.harness import EvalRequest, quietly
from topiclora_cli.evaluation.loading import Tasks, prepare
from topiclora_cli.evaluation.metrics import Metric
from topiclora_cli.evaluation.running import seed_everything
from topiclora_cli.runs.progress import Advance

KINDS = ("multiple_choice", "generate_until", "loglikelihood")


@dataclass(frozen=True)
class Asked:
    """A question of a task: the `place`-th of its data.

    text: what lm-eval calls its text, within the contexts. contexts: one for each request; continuations: what follows,
    or the settings of a generation. right: the requests that are right; answer: what is right to write, as it follows
    the context. order: which request is the task's own first, second and so on.
    """

    task: str
    place: int
    doc: Any
    kind: str
    text: str
    contexts: tuple[str, ...]
    continuations: tuple[Any, ...]
    right: tuple[int, ...]
    answer: str | None
    order: tuple[int, ...]

    @property
    def prompt(self) -> str:
        """The context of the right answer, which is that of all others unless the choices are in it."""
        return self.contexts[self.right[0] if self.right else 0]

    def with_contexts(self, contexts: Sequence[str]) -> "Asked":
        """The same question behind other contexts."""
        return replace(self, contexts=tuple(contexts))


@dataclass(frozen=True)
class Answered:
    """What came of questions, in their order; NaN where a question has no such measure.

    score: the task's headline metric among those that are shares, as accuracy is; choice_loss: -log of the right
    choice's share, in nats, of multiple choice; answer_loss: -log-likelihood of the right answer, in nats.
    """

    score: np.ndarray
    choice_loss: np.ndarray
    answer_loss: np.ndarray


def pose(tasks: Tasks, request: EvalRequest, lm: Any, *, limit: int) -> list[Asked]:
    """The first `limit` questions of every task that asks something with an answer.

    Raises TopicLoraError where none does.
    """
    found = []
    for name, task in tasks.tasks.items():
        if task.OUTPUT_TYPE not in KINDS:
            continue
        prepare(task, request)
        count = min(limit, request.asks(name, len(task.eval_docs)))
        with quietly():
            task.build_all_requests(
                limit=count,
                samples=list(request.samples[name])[:count] if name in request.samples else None,
                system_instruction=request.system_instruction,
                apply_chat_template=bool(request.chat_template),
                fewshot_as_multiturn=request.multiturn,
                chat_template=lm.apply_chat_template if request.chat_template else None,
            )
        by_place: dict[int, list[Any]] = {}
        for instance in task.instances:
            by_place.setdefault(instance.doc_id, []).append(instance)
        found += [_asked(name, task, request, place, instances) for place, instances in by_place.items()]
    if not found:
        raise TopicLoraError("None of the tasks asks questions with an answer.", f"Kinds that do: {', '.join(KINDS)}.")
    return found


def answer(
    lm: Any, tasks: Tasks, questions: Sequence[Asked], request: EvalRequest, *, advance: Advance = lambda n, note: None
) -> Answered:
    """Put the questions to a model, and score what it answers by their tasks."""
    values = {name: np.full(len(questions), np.nan) for name in ("score", "choice_loss", "answer_loss")}
    for name in dict.fromkeys(question.task for question in questions):
        places = [at for at, question in enumerate(questions) if question.task == name]
        asked = [questions[at] for at in places]
        task = tasks.tasks[name]
        with quietly():
            results = _responses(lm, asked, task, request)
            scores = _scores(tasks, name, asked, results, request)
            losses = [_losses(question, result) for question, result in zip(asked, results, strict=True)]
            if asked[0].kind == "generate_until":
                losses = [(np.nan, loss) for loss in _written(lm, asked)]
        values["score"][places] = scores
        values["choice_loss"][places], values["answer_loss"][places] = zip(*losses, strict=True)
        advance(len(places), name)
    return Answered(**values)


def _asked(name: str, task: Any, request: EvalRequest, place: int, instances: Sequence[Any]) -> Asked:
    doc, kind = instances[0].doc, task.OUTPUT_TYPE
    contexts, continuations = zip(*(each.args[:2] for each in instances), strict=True)
    text = task.doc_to_text(doc)
    right: tuple[int, ...] = (0,)
    answered = continuations[0] if kind == "loglikelihood" else None
    if kind == "multiple_choice":
        right = tuple(right_places(task, doc, len(task.doc_to_choice(doc))))
        answered = continuations[right[0]] if right else None
    elif kind == "generate_until":
        target = task.doc_to_target(doc)
        target = target[0] if isinstance(target, list) and target else target
        # A chat template's last words stand for the delimiter, as lm-eval has it of choices.
        delimiter = "" if request.chat_template else task.config.target_delimiter
        answered = f"{delimiter}{target}" if isinstance(target, str | int | float) else None
    own = tuple(range(len(instances)))
    shown = text if isinstance(text, str) else ""
    return Asked(name, place, doc, kind, shown, contexts, continuations, right, answered, own)


def _responses(lm: Any, asked: Sequence[Asked], task: Any, request: EvalRequest) -> list[list[Any]]:
    """What the model says to each question's requests, in the task's own order of them."""
    from lm_eval.api.instance import Instance

    seed_everything(request)
    kind = "generate_until" if asked[0].kind == "generate_until" else "loglikelihood"
    instances = [
        Instance(
            request_type=kind,
            doc=question.doc,
            arguments=(question.contexts[at], deepcopy(question.continuations[at])),
            idx=at,
            metadata=(question.task, question.place, task.config.repeats),
        )
        for question in asked
        for at in question.order
    ]
    repeated = [instance for instance in instances for _ in range(instance.repeats)]
    for instance, response in zip(repeated, getattr(lm, kind)(repeated), strict=True):
        instance.resps.append(response)
    parts, start = [], 0
    for question in asked:
        parts.append(instances[start : start + len(question.order)])
        start += len(question.order)
    return parts


def _scores(
    tasks: Tasks, name: str, asked: Sequence[Asked], results: Sequence[Sequence[Any]], request: EvalRequest
) -> list[float]:
    """Each question's headline metric; NaN where the task has none that a question is right or wrong by."""
    task = tasks.tasks[name]
    task._instances = [instance for part in results for instance in part]
    task.apply_filters()
    found: list[dict[str, Any]] = []
    for question, part in zip(asked, results, strict=True):
        metrics: dict[str, Any] = {}
        for each in part[0].filtered_resps:
            answers = [instance.filtered_resps[each] for instance in part]
            metrics |= {f"{key},{each}": value for key, value in task.process_results(question.doc, answers).items()}
        found.append(metrics)
    keys = [key for key, value in found[0].items() if isinstance(value, int | float) and _is_share(key)]
    if not keys:
        return [np.nan] * len(asked)
    best = tasks.headline(name, keys, request.metrics)
    return [float(metrics.get(best, np.nan)) for metrics in found]


def _is_share(key: str) -> bool:
    name, _, filter_name = key.partition(",")
    return Metric(name, filter_name, 0.0).unit == "share"


def _losses(question: Asked, part: Sequence[Any]) -> tuple[float, float]:
    """Choice loss and answer loss of a question whose requests were scored by likelihood."""
    if question.kind == "generate_until":
        return np.nan, np.nan
    likelihoods = np.array([instance.resps[0][0] for instance in part], dtype=float)
    if question.kind == "loglikelihood":
        return np.nan, -float(likelihoods[0])
    if not question.right:
        return np.nan, np.nan
    # Where mutual information is wanted, the choices without their question follow.
    if len(set(question.contexts)) > 1 and "" in question.contexts:
        likelihoods = likelihoods[: len(likelihoods) // 2]
    return loss_of_choice(likelihoods, question.right), -float(likelihoods[question.right[0]])


def _written(lm: Any, asked: Sequence[Asked]) -> list[float]:
    """Answer loss of questions whose answers are written: NaN of one without a right text."""
    from lm_eval.api.instance import Instance

    known = [question for question in asked if question.answer]
    instances = [
        Instance(
            "loglikelihood", question.doc, (question.prompt, question.answer), 0, (question.task, question.place, 1)
        )
        for question in known
    ]
    losses = iter([-float(likelihood) for likelihood, _ in lm.loglikelihood(instances)] if instances else [])
    return [next(losses) if question.answer else np.nan for question in asked]
