"""The models that an evaluation puts side by side: what each name stands for, and how it is loaded."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.evaluation.kept import KeptScores
from topiclora_cli.evaluation.subject import Loaded
from topiclora_cli.models.base import base_source
from topiclora_cli.models.names import name_for_others
from topiclora_cli.recipe import Recipe, altered, load_recipe
from topiclora_cli.runs.files import read_json
from topiclora_cli.runs.run import RECIPE, RunDir, is_run
from topiclora_cli.stages.inputs import adapter_folder, open_base, same_base, with_adapter
from topiclora_cli.stages.kept import kept_of_adapter, kept_of_base, loaded

BASE, BEST = "base", "best"
_ADAPTER, _MODEL = "adapter_config.json", "config.json"


@dataclass(frozen=True)
class Contender:
    """A model under its label: the base of a recipe, with the adapter of a folder where there is one."""

    label: str
    recipe: Recipe
    adapter: Path | None = None

    def load(self) -> Loaded:
        """The model in evaluation mode, and its tokenizer; raises TopicLoraError where it cannot be read."""
        base = open_base(self.recipe)
        return loaded(base) if self.adapter is None else loaded(base, with_adapter(base, self.adapter))

    def kept(self, beside: Path, *, reads: bool) -> KeptScores:
        """Its scores of before: a model without an adapter shares them with all runs."""
        if self.adapter is None:
            return kept_of_base(self.recipe, reads=reads)
        return kept_of_adapter(self.recipe, self.adapter, beside, reads=reads)


def owner(named: str) -> RunDir | None:
    """The run that a name is, or lies in; None for anything else."""
    path = Path(named)
    return next((RunDir(each) for each in (path, *path.parents) if each.exists() and is_run(each)), None)


def base_named(name: str) -> str:
    """The base of what is named and lies in no run: a folder's of an adapter, or the model itself."""
    config = Path(name) / _ADAPTER
    if not config.is_file():
        return name
    return read_json(config, hint="Save it again.").get("base_model_name_or_path") or name


def contenders(names: Sequence[str], recipe: Recipe) -> list[Contender]:
    """What is named: `base`, a run, a folder of an adapter or of a whole model, a checkpoint, or a hub id.

    recipe: that of the evaluation, whose base is meant by `base`, and by an adapter that lies in no run and was trained
    on it. Raises TopicLoraError for what is nothing of that, an adapter of another base than its run's, or one twice.
    """
    found: list[Contender] = []
    for name in names:
        model = _contender(name, recipe)
        if (model.recipe.model, model.adapter) in [(each.recipe.model, each.adapter) for each in found]:
            raise TopicLoraError(f"--model {name} is named twice.", "Name it once.")
        found.append(model)
    return _told_apart(found)


def _contender(name: str, recipe: Recipe) -> Contender:
    path = Path(name)
    if name == BASE:
        return Contender(BASE, recipe)
    if is_run(path):
        run = RunDir(path)
        own = _in_the_same_way(run, recipe)
        return Contender(path.resolve().name, own, adapter_folder(own, run))
    path, run_of = _there(path), owner(name)
    label = path.resolve().name
    if run_of is not None:
        label = "-".join([run_of.path.resolve().name, *path.resolve().relative_to(run_of.path.resolve()).parts])
    own = _in_the_same_way(run_of, recipe) if run_of is not None else recipe
    if (path / _ADAPTER).is_file():
        return Contender(label, _of_its_base(path, own), path)
    if path.exists() and not (path / _MODEL).is_file():
        raise TopicLoraError(
            f"{name} is neither a run nor a folder of a model or an adapter.",
            f"Name `{BASE}`, a run, one of its exports or checkpoints, a peft adapter, or a model.",
        )
    if (
        path.exists()
        and not own.model.trust_remote_code
        and "auto_map" in read_json(path / _MODEL, hint="Copy it again.")
    ):
        raise TopicLoraError(
            f"{name} is loaded by code that lies in it.", "Read it, and add --set model.trust_remote_code=true"
        )
    return Contender(
        label if path.exists() else name.rpartition("/")[2], _on(own, str(path) if path.exists() else name)
    )


def _in_the_same_way(run: RunDir, recipe: Recipe) -> Recipe:
    """A run's recipe, computed and asked as that of the evaluation is."""
    changes: dict[str, Any] = {
        "train.precision": recipe.train.precision,
        "eval.backend": recipe.eval.backend,
        "eval.backend_args": recipe.eval.backend_args,
    }
    if recipe.model.trust_remote_code:
        changes["model.trust_remote_code"] = True
    return altered(load_recipe(str(run.path / RECIPE)), changes.items(), where="--model")


def _there(path: Path) -> Path:
    """The folder that is meant: of checkpoints/best that of the best, of merged/FORMAT the latest export's."""
    if path.exists():
        return path
    if path.parent.name == "checkpoints" and is_run(path.parent.parent):
        return _checkpoint(path)
    if path.parent.name == "merged" and is_run(path.parent.parent):
        exports = sorted(path.parent.glob(f"*/{path.name}"), key=lambda each: each.stat().st_mtime_ns)
        if exports:
            return exports[-1]
        raise TopicLoraError(
            f"{path.parent.parent} has no export {path.name}.",
            f"Make one with: topiclora merge --run {shlex.quote(str(path.parent.parent))}",
        )
    return path


def _checkpoint(path: Path) -> Path:
    saved = sorted(path.parent.glob("checkpoint-*"), key=lambda each: int(each.name.rpartition("-")[2]))
    there = f"There are: {', '.join(each.name for each in saved)}." if saved else "None was saved."
    if path.name != BEST or not saved:
        raise TopicLoraError(f"{path} is no checkpoint.", there)
    best = read_json(saved[-1] / "trainer_state.json", hint="Name another.").get("best_model_checkpoint")
    if best is None:
        raise TopicLoraError(f"The training in {path.parent.parent} chose no best checkpoint.", there)
    found = path.parent / Path(best).name
    if not found.exists():
        raise TopicLoraError(f"The best checkpoint, {found.name}, is no longer there.", there)
    return found


def _of_its_base(adapter: Path, recipe: Recipe) -> Recipe:
    """The recipe, with the base that the adapter was trained on."""
    named = read_json(adapter / _ADAPTER, hint="Save it again.").get("base_model_name_or_path")
    section = recipe.model
    source = base_source(section.name, section.upcycle, revision=section.revision)
    if not named or named == name_for_others(section.name, source, upcycled=section.upcycle is not None):
        return recipe
    return recipe if same_base(named, source) else _on(recipe, named)


def _on(recipe: Recipe, model: str) -> Recipe:
    changes: dict[str, Any] = {"model.name": model, "model.upcycle": None, "model.revision": None}
    return altered(recipe, changes.items(), where="--model")


def _told_apart(found: Sequence[Contender]) -> list[Contender]:
    """With a number behind labels that others have, too."""
    labels: list[str] = []
    for each in found:
        stem = "".join(c if c.isalnum() or c in "-_.+=" else "-" for c in each.label)
        numbered = [stem, *(f"{stem}-{number}" for number in range(2, len(found) + 2))]
        labels.append(next(label for label in numbered if label not in labels))
    return [Contender(label, each.recipe, each.adapter) for label, each in zip(labels, found, strict=True)]
