"""The hand-off to lm-evaluation-harness; the only file that imports it.

The harness runs in this process on the model object itself, so an adapter needs no export to be measured.
"""

import io
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from topiclora_cli.errors import TopicLoraError, nearest
from topiclora_cli.evaluation.results import EvalResults

OUR_TASKS = Path(__file__).parent / "tasks"


@dataclass(frozen=True)
class EvalRequest:
    """What to run: task names (stock, ours, or under `include_path`), questions per task, shots, batch size.

    chat_template: whether questions go through the tokenizer's.
    """

    tasks: Sequence[str]
    limit: int | None = None
    num_fewshot: int | None = None
    batch_size: int = 16
    include_path: str | None = None
    bfloat16: bool = False
    chat_template: bool = False


def make_task_manager(request: EvalRequest) -> Any:
    """An lm-eval TaskManager that knows every requested task.

    Indexing lm-eval's own thousands of tasks takes many seconds, so they are read only when one is asked for. Raises
    TopicLoraError with the nearest names for a task nobody knows, and for an include path that does not exist.
    """
    _quiet()
    from lm_eval.tasks import TaskManager

    paths = [str(OUR_TASKS)]
    if request.include_path is not None:
        if not Path(request.include_path).is_dir():
            raise TopicLoraError(
                f"eval.include_path {request.include_path!r} is not a folder.", "Name a folder of task YAMLs."
            )
        paths.append(request.include_path)
    manager = TaskManager(include_path=paths, include_defaults=False)
    if not all(manager.match_tasks([task]) for task in request.tasks):
        manager = TaskManager(include_path=paths, include_defaults=True)
    for task in request.tasks:
        if not manager.match_tasks([task]):
            raise TopicLoraError(f"lm-eval has no task {task!r}.", nearest(task, manager.all_tasks))
    return manager


def run_harness(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    request: EvalRequest,
    *,
    label: str,
    output_path: Path,
    manager: Any = None,
) -> EvalResults:
    """Evaluate `model` and write lm-eval's own results file and samples under `output_path/label`.

    Raises TopicLoraError where a task is unknown, its data cannot be loaded, or a chat template is missing.
    """
    if request.chat_template and tokenizer.chat_template is None:
        raise TopicLoraError("The model's tokenizer has no chat template.", "Set eval.chat_template to false.")
    manager = manager or make_task_manager(request)
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.models.huggingface import HFLM

    tracker = EvaluationTracker(output_path=str(output_path))
    harness_model = HFLM(
        pretrained=model,
        tokenizer=tokenizer,
        batch_size=request.batch_size,
        mixed_precision_dtype="bfloat16" if request.bfloat16 else None,
    )
    side = tokenizer.padding_side
    try:
        with _bars_on_terminals_only(), _data_at_hand(request.tasks):
            raw = simple_evaluate(
                model=harness_model,
                model_args={"pretrained": label},
                tasks=manager.match_tasks(list(request.tasks)),
                num_fewshot=request.num_fewshot,
                limit=request.limit,
                apply_chat_template=request.chat_template,
                batch_size=request.batch_size,
                task_manager=manager,
                evaluation_tracker=tracker,
                bootstrap_iters=0,
            )
    finally:
        tokenizer.padding_side = side
    samples = raw.pop("samples")
    tracker.save_results_aggregated(results=raw, samples=samples)
    for task, rows in samples.items():
        tracker.save_results_samples(task_name=task, samples=rows)
    return EvalResults.from_harness(raw, samples, label=label)


def evaluation_questions(request: EvalRequest) -> Iterator[str]:
    """The text of every question of the requested tasks, as lm-eval poses it without shots.

    Where a task names the column that tells its questions apart (`doc_to_decontamination_query`), that column. Raises
    TopicLoraError where a task is unknown or its data cannot be loaded.
    """
    manager = make_task_manager(request)
    with _data_at_hand(request.tasks):
        tasks = manager.load(manager.match_tasks(list(request.tasks)))["tasks"]
        for task in tasks.values():
            # lm-eval's own method evaluates the rendered text as Python, which a sentence is not.
            column = getattr(task.config, "doc_to_decontamination_query", None)
            for doc in task.eval_docs:
                yield str(doc[column] if column in doc else task.doc_to_text(doc))


@contextmanager
def _data_at_hand(tasks: Sequence[str]) -> Iterator[None]:
    try:
        yield
    except (ConnectionError, FileNotFoundError) as error:
        raise TopicLoraError(
            f"The data of {', '.join(tasks)} cannot be loaded: {str(error).splitlines()[0]}",
            "Connect to a hub, or point --include-path at tasks over local files.",
        ) from None


def _bars_on_terminals_only() -> AbstractContextManager[Any]:
    """The harness draws its bars whoever watches; in a log file they are thousands of characters of noise."""
    return nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO())


def _quiet() -> None:
    """Keep the harness's notices out of the way."""
    for name in ("lm_eval", "lm-eval", "datasets", "evaluate"):
        logging.getLogger(name).setLevel(logging.ERROR)
