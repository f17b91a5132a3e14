"""What a name on the command line stands for: a run, one of its evaluations, or a folder of lm-eval's."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from topiclora_cli.errors import OldSpelling, TopicLoraError, nearest
from topiclora_cli.evaluation.comparison.answers import Answers, find_answers
from topiclora_cli.recipe import load_recipe
from topiclora_cli.runs.naming import SUMMARY, named_folders
from topiclora_cli.runs.results.evaluation import EvalSummary
from topiclora_cli.runs.results.files import read_result
from topiclora_cli.runs.run import MANIFEST, RECIPE, RunDir

_DECISIVE = ("model", "graph", "adapter", "loss", "train", "data")


@dataclass(frozen=True)
class Trained:
    """What a run was trained as: `asked`, the recipe as far as it bears on the adapter, `model`, of that the base, both
    as JSON, and the seed."""

    asked: str
    model: str
    seed: int


@dataclass(frozen=True)
class Place:
    """Answers under a label.

    trained: None where no run of ours was. base: of its base. headlines: the metric that an evaluation of ours went
    by, as `name,filter`, by task.
    """

    label: str
    answers: Answers
    trained: Trained | None = None
    base: Path | None = None
    headlines: Mapping[str, str] = field(default_factory=dict)

    @property
    def seed(self) -> int | None:
        """None where no run of ours was trained."""
        return self.trained.seed if self.trained is not None else None


def find_place(name: str) -> Place:
    """RUN, RUN:EVALUATION, RUN/eval/EVALUATION or an output folder of lm-eval's; raises TopicLoraError for others."""
    path, evaluation = Path(name), ""
    if not path.exists() and ":" in name:
        run, _, evaluation = name.rpartition(":")
        path = Path(run)
    if not path.is_dir():
        raise TopicLoraError(f"{path} is no folder.", "Name a run, RUN:EVALUATION, or an output folder of lm-eval's.")
    if not evaluation and (path / SUMMARY).is_file() and (path.parent.parent / MANIFEST).is_file():
        path, evaluation = path.parent.parent, path.name
    if not (path / MANIFEST).is_file():
        return Place(path.name, find_answers(path))
    folders = {folder.name: folder for folder in named_folders(path / "eval", SUMMARY)}
    if not folders:
        raise TopicLoraError(f"{path} has no finished evaluation.", f"Make one with: topiclora eval --run {path}")
    if evaluation and evaluation not in folders:
        raise TopicLoraError(f"{path} has no evaluation {evaluation!r}.", nearest(evaluation, folders))
    folder = folders[evaluation] if evaluation else list(folders.values())[-1]
    tuned = (folder / "tuned").is_dir()
    answers = find_answers(folder / ("tuned" if tuned else "base"))
    base = folder / "base" if (folder / "base").is_dir() else None
    trained = _trained(RunDir(path)) if tuned else None
    headlines = {row.task: row.key for row in read_result(folder / SUMMARY, EvalSummary).tasks}
    return Place(path.name, answers, trained, base, headlines)


def _trained(run: RunDir) -> Trained:
    """What was trained, whatever version wrote it."""
    record = run.stage("train")
    path = run.path / ((record and record.recipe) or RECIPE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OldSpelling)
        recipe = load_recipe(str(path))
    asked, model = (recipe.model_dump_json(include=set(names)) for names in (_DECISIVE, ("model",)))
    return Trained(asked, model, recipe.seed)
