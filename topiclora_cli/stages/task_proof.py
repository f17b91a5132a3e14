"""An export's scores by lm-eval, beside those of the base and of the routed model, on the same questions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from topiclora_cli.evaluation.loading import Tasks, load_tasks
from topiclora_cli.evaluation.running import count_questions, run_harness
from topiclora_cli.recipe import Recipe
from topiclora_cli.runs.progress import Progress
from topiclora_cli.runs.results.export import BASE, EXPORT, ROUTED, TaskGap
from topiclora_cli.stages.training_data import eval_request

Places = Mapping[str, tuple[int, ...]]  # task -> the places of some of its questions
Choose = Callable[[Sequence[str]], Sequence[str]]  # from prompts to the names of adapters


class TaskProof:
    """The tasks of merge.tasks and what was scored on them; raises TopicLoraError for tasks that cannot be scored."""

    def __init__(self, recipe: Recipe, progress: Progress) -> None:
        asked = recipe.model_copy(update={"eval": recipe.eval.model_copy(update={"tasks": recipe.merge.tasks})})
        self._request = eval_request(asked)
        self._tasks = load_tasks(self._request)
        self._progress = progress
        self._metric: dict[str, tuple[str, str]] = {}  # task -> its headline, and the unit of that
        self._sums: dict[tuple[str, str], tuple[float, int]] = {}  # (whose, task) -> sum over questions, and how many

    def score(
        self,
        whose: str,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        folder: Path,
        *,
        places: Places | None = None,
    ) -> None:
        """Score a model, on questions at some places alone where they are given; lm-eval's files go to `folder`."""
        tasks, request = self._tasks, self._request
        if places is not None:
            tasks, request = _some(tasks, places), replace(request, samples=places, limit=None)
        with self._progress.track(f"questions, {whose}", count_questions(tasks, request)) as advance:
            found = run_harness(model, tokenizer, request, tasks, label=whose, output_path=folder, advance=advance)
        for name, score in found.scores.items():
            if not score.group:
                total, count = self._sums.get((whose, name), (0.0, 0))
                self._metric[name] = score.headline.removesuffix(",none"), score.metric.unit
                self._sums[whose, name] = total + score.metric.value * score.count, count + score.count

    def places(self, choose: Choose) -> dict[str, Places]:
        """Which adapter is for which questions: its name -> task -> places."""
        found: dict[str, dict[str, list[int]]] = {}
        for name, task in self._tasks.tasks.items():
            documents: Any = list(task.eval_docs)
            asked = self._request.samples.get(name, range(self._request.asks(name, len(documents))))
            prompts = [str(task.doc_to_text(documents[place])) for place in asked]
            for place, adapter in zip(asked, choose(prompts), strict=True):
                found.setdefault(adapter, {}).setdefault(name, []).append(place)
        return {name: {task: tuple(own) for task, own in tasks.items()} for name, tasks in found.items()}

    def gaps(self) -> tuple[TaskGap, ...]:
        """Each task's scores side by side, and, of several, their mean."""
        rows = [
            TaskGap(name, metric, *(self._mean(whose, name) for whose in (BASE, ROUTED, EXPORT)))
            for name, (metric, _) in self._metric.items()
        ]
        if len(rows) > 1 and {unit for _, unit in self._metric.values()} == {"share"}:
            parts = ([getattr(row, whose) for row in rows] for whose in (BASE, ROUTED, EXPORT))
            means = [None if None in part else sum(part) / len(part) for part in parts]
            rows.append(TaskGap(f"mean of {len(rows)}", ", ".join(sorted({row.metric for row in rows})), *means))
        return tuple(rows)

    def _mean(self, whose: str, task: str) -> float | None:
        total, count = self._sums.get((whose, task), (0.0, 0))
        return total / count if count else None


def _some(tasks: Tasks, places: Places) -> Tasks:
    chosen = {name: task for name, task in tasks.tasks.items() if name in places}
    return replace(tasks, tasks=chosen, groups={}, order=dict.fromkeys(chosen, 0), counted=list(chosen))
