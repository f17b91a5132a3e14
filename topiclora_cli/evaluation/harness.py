"""The hand-off to lm-evaluation-harness: what is asked of it, and its errors as lines that a person can act on."""

import io
import logging
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topiclora_cli.errors import TopicLoraError, nearest
from topiclora_cli.evaluation.choosing import Samples, Setting

if TYPE_CHECKING:
    from topiclora_cli.evaluation.questions import Question

QUESTIONS = "topiclora_questions"
SEEDS = (0, 1234, 1234, 1234)  # lm-eval's
OUR_TASKS = Path(__file__).parent / "tasks"


@dataclass(frozen=True)
class EvalRequest:
    """What to run: task names (stock, ours, or under `include_path`), which questions of each, how they are posed.

    limit: questions of each task, below 1 their share. samples: by task the places of the questions to ask, from 0;
    a task that is not named is asked whole. batch_size: a number, `auto` or `auto:N`. chat_template: whether questions
    go through the tokenizer's, or through that of its templates which is called so. multiturn: whether shots are turns
    of a conversation then. gen_kwargs: what goes before the task's own settings of generation. seeds: of Python, NumPy,
    torch and the shots. metrics: headline metrics, a list of which each task takes the first that it has, or by task.
    predict_only: score nothing. unsafe_code: run code that the model writes, where a task does that. questions: the
    recipe's own, which the task QUESTIONS asks. datasets_dir: where copies of hub data sets lie. backend: what
    runs the model, hf or vllm; backend_args: what vLLM's engine is made with, as lm-eval's model_args.
    """

    tasks: Sequence[str]
    limit: float | None = None
    samples: Samples = field(default_factory=dict)
    num_fewshot: int | None = None
    batch_size: int | str = 16
    include_path: str | None = None
    bfloat16: bool = False
    system_instruction: str | None = None
    chat_template: bool | str = False
    multiturn: bool = True
    gen_kwargs: Mapping[str, Setting] = field(default_factory=dict)
    seeds: tuple[int | None, ...] = SEEDS
    metrics: Sequence[str] | Mapping[str, str] = ()
    predict_only: bool = False
    unsafe_code: bool = False
    questions: tuple["Question", ...] = ()
    datasets_dir: str | None = None
    backend: str = "hf"
    backend_args: Mapping[str, Setting] = field(default_factory=dict)

    def asks(self, task: str, questions: int) -> int:
        """How many of a task's questions are asked."""
        if task in self.samples:
            return len(self.samples[task])
        if self.limit is None:
            return questions
        return min(questions, math.ceil(questions * self.limit) if self.limit < 1 else int(self.limit))


def make_task_manager(request: EvalRequest, *, every: bool = False) -> Any:
    """An lm-eval TaskManager that knows every requested task, or `every` one that there is.

    Even a kept index of lm-eval's own thousands of tasks takes a second to read, so it is read where it is needed.
    Raises TopicLoraError with the nearest names for a task nobody knows, for an include path that does not exist, and,
    with its line, for what is wrong with a task file.
    """
    _quiet()
    from topiclora_cli.evaluation.file_tasks import TaskFiles
    from topiclora_cli.evaluation.questions import QuestionManager

    paths = [str(OUR_TASKS)]
    if request.include_path is not None:
        if not Path(request.include_path).is_dir():
            raise TopicLoraError(
                f"eval.include_path {request.include_path!r} is not a folder.", "Name a folder of task YAMLs."
            )
        paths.append(request.include_path)
    files = TaskFiles(request.tasks)
    manager = QuestionManager(request.questions, files, include_path=paths, include_defaults=every)
    if not every and not (manager.whole and all(manager.match_tasks([task]) for task in request.tasks)):
        manager = QuestionManager(request.questions, files, include_path=paths, include_defaults=True)
    for task in request.tasks:
        if not manager.match_tasks([task]):
            raise TopicLoraError(f"lm-eval has no task {task!r}.", nearest(task, manager.all_tasks))
    return manager


def evaluation_questions(request: EvalRequest) -> Iterator[str]:
    """The text of every question of the requested tasks, as lm-eval poses it without shots.

    Where a task names the column that tells its questions apart (`doc_to_decontamination_query`), that column. Raises
    TopicLoraError where a task is unknown or its data cannot be loaded.
    """
    # Of the package datasets, which takes half a second.
    from topiclora_cli.evaluation.local_data import local_datasets

    manager = make_task_manager(request)
    for name in manager.match_tasks(list(request.tasks)):
        with one_line(name), local_datasets(request.datasets_dir):
            tasks = manager.load([name])["tasks"]
        for task in tasks.values():
            for doc in task.eval_docs:
                yield question_text(task, doc)


def question_text(task: Any, doc: Any) -> str:
    """A question of a task as lm-eval poses it, or what its `doc_to_decontamination_query` names of it."""
    # lm-eval's own method evaluates the rendered text as Python, which a sentence is not.
    column = getattr(task.config, "doc_to_decontamination_query", None)
    return str(doc[column] if column in doc else task.doc_to_text(doc))


@contextmanager
def one_line(task: str) -> Iterator[None]:
    """Turn whatever stops a task in the block into a TopicLoraError that names the task and what to do."""
    try:
        yield
    except TopicLoraError:
        raise
    except Exception as error:
        raise _explained(task, error) from error


def reason(error: BaseException) -> str:
    """An error's kind and the first line of it that says something."""
    lines = [line.strip() for line in str(error).splitlines() if any(c.isalpha() for c in line)]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextmanager
def quietly(*, downloads: bool = False) -> Iterator[None]:
    """What the harness prints is left out; so is what goes to standard error, save the bars of downloads, if any, where
    somebody watches: git, too, which the harness calls, complains there outside of a repository."""
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(io.StringIO()))
        if not downloads or not sys.stderr.isatty():
            stack.enter_context(redirect_stderr(io.StringIO()))
            stack.enter_context(_no_standard_error())
        yield


@contextmanager
def _no_standard_error() -> Iterator[None]:
    """What this process and those that it starts write to file 2 is left out in the block."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def _explained(task: str, error: Exception) -> TopicLoraError:
    if "HF_ALLOW_CODE_EVAL" in str(error):
        return TopicLoraError(
            f"The task {task!r} runs code that the model writes.",
            "Where that can do no harm, say in a container: --unsafe-code (eval.unsafe_code: true)",
        )
    if isinstance(error, ConnectionError | FileNotFoundError):
        return TopicLoraError(
            f"What the task {task!r} reads cannot be loaded: {reason(error)}",
            "Connect to a hub, or name a folder of copies by --datasets-dir.",
        )
    # The harness wraps what failed; the innermost names the package.
    causes: list[BaseException] = [error]
    while following := causes[-1].__cause__:
        causes.append(following)
    if missing := [cause for cause in causes if isinstance(cause, ImportError)]:
        package = (missing[-1].name or "").partition(".")[0]
        return TopicLoraError(
            f"The task {task!r} needs a Python package that is not here ({reason(missing[-1])}).",
            f"Install it (pip install {package}), or the extra of lm-eval that brings it."
            if package
            else "Install the extra of lm-eval that brings it.",
        )
    return TopicLoraError(f"The task {task!r} cannot be posed: {reason(error)}", "Mend its task file, or leave it out.")


def _quiet() -> None:
    """Keep the harness's notices out of the way, and its bootstrap in this process: copies of it would hold a model."""
    os.environ.setdefault("DISABLE_MULTIPROC", "1")
    for name in ("lm_eval", "lm-eval", "datasets", "evaluate"):
        logging.getLogger(name).setLevel(logging.ERROR)
