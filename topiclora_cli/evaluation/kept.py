"""What a model scored on a task, kept as the task finishes, under all that it depends on.

The same model on the same questions need not be asked twice, and an evaluation that was killed goes on with the next
task. What is written down and what is read back are the same to the digit.
"""

import gzip
import hashlib
import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from topiclora_cli.evaluation.harness import EvalRequest
from topiclora_cli.runs.files import replacing
from topiclora_cli.runs.machine import versions

_FORMAT = 1  # one more whenever a file holds something else
# Of a request: which tasks it names and what they are read from count by their own content.
_NOT_ASKED = ("tasks", "metrics", "include_path", "questions", "datasets_dir")
# Of a task's settings: where its rows come from, which count as they are.
_PLACES = ("dataset_path", "dataset_name", "dataset_kwargs", "custom_dataset", "metadata")


@dataclass(frozen=True)
class KeptScores:
    """One model's scores in `folder`, a file for each task and way of asking it.

    model: what tells the model from every other. reads: whether what is there is taken; it is written anyway.
    """

    folder: Path
    model: str
    reads: bool = True

    def find(self, name: str, task: Any, request: EvalRequest) -> Any:
        """What lm-eval returned of the task before, None where it was not scored in this way or the file is no use."""
        if not self.reads:
            return None
        with suppress(OSError, EOFError, ValueError), gzip.open(self._path(name, task, request), "rt") as file:
            return json.load(file)
        return None

    def keep(self, name: str, task: Any, request: EvalRequest, raw: Any) -> Any:
        """Write down what lm-eval found, in one step, and return it as it would be read."""
        text = json.dumps(raw, default=_plain, ensure_ascii=False)
        with replacing(self._path(name, task, request)) as temporary, gzip.open(temporary, "wt", 6) as file:
            file.write(text)
        return json.loads(text)

    def _path(self, name: str, task: Any, request: EvalRequest) -> Path:
        safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in name)[:60]
        return self.folder / f"{safe}-{_digest([self.model, *_content(name, task, request)])}.json.gz"


def _content(name: str, task: Any, request: EvalRequest) -> list[Any]:
    """All but the model that a task's scores depend on."""
    settings = {key: value for key, value in asdict(request).items() if key not in _NOT_ASKED}
    settings["samples"] = request.samples.get(name)
    config = {key: value for key, value in task.dump_config().items() if key not in _PLACES}
    first = request.asks(name, len(task.eval_docs)) if name not in request.samples else None
    shown = task.fewshot_docs() if config.get("num_fewshot") else None
    code = _code(Path(request.include_path)) if request.include_path is not None else ""
    return [
        *(_FORMAT, versions(), name, task.VERSION, config, settings, code),
        *(_digest_of_each(islice(task.eval_docs, first)), _digest_of_each(shown or ())),
    ]


def _code(folder: Path) -> str:
    """What functions of one's own tasks may call."""
    return _digest_of_each([path.name, path.read_text("utf-8", "replace")] for path in sorted(folder.rglob("*.py")))


def _digest_of_each(values: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for value in values:
        digest.update(_text(value).encode())
    return digest.hexdigest()


def _digest(value: Any) -> str:
    return hashlib.sha256(_text(value).encode()).hexdigest()[:24]


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=_plain)


def _plain(value: Any) -> Any:
    """A number of numpy's or torch's as one of Python's, a set as a list, else what it prints."""
    item: Callable[[], Any] | None = getattr(value, "item", None)
    if item is not None and getattr(value, "size", 1) == 1:
        return item()
    return sorted(value, key=str) if isinstance(value, set | frozenset) else str(value)
