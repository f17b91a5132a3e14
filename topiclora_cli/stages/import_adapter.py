"""A published checkpoint as a run: its adapter, as peft loads it, beside a recipe that describes it."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from topiclora_cli.adapters.perft import PerftConfig
from topiclora_cli.adapters.topiclora import TopicLoraConfig
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.importing.base import Base, check_fits, look_up
from topiclora_cli.importing.checkpoint import Checkpoint, read_checkpoint
from topiclora_cli.importing.formats import convert, recognise
from topiclora_cli.importing.imported import Asked, Imported
from topiclora_cli.models.names import about_base, name_for_others
from topiclora_cli.recipe import Recipe, build_recipe, dump_recipe
from topiclora_cli.runs.files import replacing
from topiclora_cli.runs.progress import Progress
from topiclora_cli.runs.run import ADAPTER_CONFIG, RunDir

WEIGHTS = "adapter_model.safetensors"
_BALANCE = {"balance": {"weight": 1e-3}}  # of all that a training can teach a router whose gates are constant
_BY_DEPTH = {"experts_per_layer": "experts_by_depth", "ranks_per_layer": "ranks_by_depth"}


@dataclass(frozen=True)
class ImportResult:
    """What was imported: the run, the format that it was of, and the adapter's method, base, layers and parameters."""

    run: RunDir
    format: str
    method: str
    base: str
    tensors: int
    parameters: int


def import_adapter(
    path: Path,
    out: Path,
    progress: Progress,
    *,
    format_: str = "auto",
    base: str | None = None,
    asked: Asked | None = None,
    force: bool = False,
) -> ImportResult:
    """Read a checkpoint, and write the adapter of ours that computes the same into `out`, whole or not at all.

    `out` is what peft loads and a run besides. base: the model that the adapter goes on, where the checkpoint does not
    name it or is to go on another copy. force: take the place of an adapter that is there. Raises TopicLoraError for
    what cannot be read or be represented, or does not fit the base.
    """
    _check_free(out, path, force=force)
    checkpoint = read_checkpoint(path)
    name = recognise(checkpoint, format_)
    on = _base(checkpoint, base)
    made = convert(name, checkpoint, asked or Asked(), on)
    check_fits(made, on)
    for note in (*checkpoint.notes, *made.notes):
        progress.say(f"Note: {note}")
    if on.model is None:
        progress.say(f"Note: not checked against its base, which is not within reach. {on.reason}")
    recipe = _recipe(made, on)
    made.config.base_model_name_or_path = name_for_others(on.name, on.name, upcycled=False)
    with replacing(out) as temporary:
        run = RunDir.create(temporary, recipe_yaml=dump_recipe(recipe), name=recipe.name, seed=recipe.seed)
        with run.running("import"):
            _write(made, temporary, origin=name, about=about_base(on.name, None))
        (temporary / ".lock").unlink(missing_ok=True)
    parameters = sum(tensor.numel() for tensor in made.tensors.values())
    return ImportResult(RunDir(out), name, made.method, on.name, len(made.tensors), parameters)


def _check_free(out: Path, source: Path, *, force: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir() or not (out / ADAPTER_CONFIG).is_file():
        raise TopicLoraError(f"{out} exists and is no adapter's folder.", "Choose another --out.")
    if not force:
        raise TopicLoraError(f"{out} exists already.", "Choose another --out, or add --force to replace it.")
    if source.resolve().is_relative_to(out.resolve()):
        raise TopicLoraError(f"{out} is where the checkpoint itself lies.", "Choose another --out.")


def _base(checkpoint: Checkpoint, given: str | None) -> Base:
    name = given or checkpoint.base
    if not name:
        raise TopicLoraError(
            f"Nothing beside {checkpoint.file} says which base model it was trained on.", "Name it with --base."
        )
    return look_up(name)


def _recipe(made: Imported, base: Base) -> Recipe:
    """A recipe whose adapter is the imported one, for the stages that follow."""
    values: dict[str, Any] = {"name": "imported", "model": {"name": base.name}}
    if getattr(made.config, "gate_weights", None) == "constant":
        values["loss"] = _BALANCE
    where = "the recipe of the imported adapter"
    filled = build_recipe({**values, "adapter": {"method": made.method}}, where=where).adapter.model_dump(mode="json")
    own = {key: value for key, value in _said(made.config).items() if key in filled and filled[key] != value}
    return build_recipe({**values, "adapter": {**own, "method": made.method}}, where=where, given={})


def _said(config: TopicLoraConfig | PerftConfig) -> dict[str, Any]:
    """An adapter's configuration by a recipe's keys."""
    values = {each.name: _plain(getattr(config, each.name)) for each in fields(config)}
    if isinstance(config, TopicLoraConfig):
        return {**values, **{ours: values[theirs] for theirs, ours in _BY_DEPTH.items()}}
    return {**values, "num_experts": config.num_adapters, "target_modules": "experts"}


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else value


def _write(made: Imported, folder: Path, *, origin: str, about: str) -> None:
    save_file(dict(made.tensors), folder / WEIGHTS, metadata={"format": "pt"})
    made.config.save_pretrained(str(folder))
    card = folder / "README.md"
    told = f"\n\n## Where it comes from\n\nIt was imported from a checkpoint of the format {origin}, exactly.\n"
    told += f"\n## Its base\n\n{about}\n" if about else ""
    card.write_text(card.read_text(encoding="utf-8").rstrip() + told, encoding="utf-8")
