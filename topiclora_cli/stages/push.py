"""A run's adapter, or one of its exports, on the hub with a card that says how it was made and what it scores."""

import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, ModelCard, ModelCardData, get_token
from huggingface_hub.utils import validate_repo_id
from safetensors import safe_open

from topiclora_cli.errors import TopicLoraError, first_line
from topiclora_cli.models.hub import HUB_ERRORS
from topiclora_cli.reporting.model_card import card_sections, eval_results
from topiclora_cli.runs.commands import command_line
from topiclora_cli.runs.files import read_json, replacing
from topiclora_cli.runs.naming import GAP
from topiclora_cli.runs.results.bundle import BUNDLE, Bundle
from topiclora_cli.runs.results.files import read_result
from topiclora_cli.runs.run import ADAPTER_CONFIG, RECIPE, RunDir
from topiclora_cli.stages.bundle_card import bundle_card

WHAT = ("adapter", "lora", "bundle", "dense", "self-loading")
CARD = "README.md"
_AGAIN = "Make it again with merge --gates topic:all."
_WEIGHTS, _TOLD_BY = "adapter_model.safetensors", ("adapter_config.json", "config.json")
# What of an imported run is the adapter: the rest of its folder is the run.
_OF_AN_ADAPTER = ("adapter_*", CARD, "topic_graph/*")
# What of an export is the bundle: the rest is how it was made and scored.
_OF_A_BUNDLE = (BUNDLE, RECIPE, GAP, "topic_graph/**/*", "lora/**/*")
_PLACES = ("path or hub id of this adapter", "path or hub id of this model")


@dataclass(frozen=True)
class Pushed:
    """What was pushed, or would be: each file with its size in bytes.

    local_base: how its adapter_config.json, or the first of several, names its base, where that is a folder on this
    machine. folder: of a rehearsal. address: of the commit.
    """

    repository: str
    what: str
    export: str | None
    files: dict[str, int]
    local_base: str | None
    folder: Path | None = None
    address: str | None = None


def push(
    run: RunDir,
    repository: str,
    *,
    what: str = "adapter",
    export: str | None = None,
    private: bool = False,
    rehearse: bool = False,
) -> Pushed:
    """Upload the run's adapter, or its export as a plain LoRA, a bundle of LoRAs by topic, a dense model or one that
    loads itself.

    export: its name under `merged/`, unless told the latest that has it. rehearse: leave in `pushed/` of the run what
    would be uploaded, and reach for no hub. Raises TopicLoraError where there is nothing such to push, no token, or the
    hub refuses or cannot be reached.
    """
    _check_name(repository)
    if what not in WHAT:
        raise TopicLoraError(f"--what {what} is nothing to push.", f"There are: {', '.join(WHAT)}.")
    source, export = _source(run, what, export)
    if rehearse:
        folder = run.path / "pushed" / "-".join([what, *([export] if export else [])])
        with replacing(folder) as temporary:
            _lay_out(run, source, temporary, repository, export)
        return Pushed(repository, what, export, _files(folder), _local_base(folder), folder)
    token = get_token()
    if token is None:
        raise TopicLoraError(
            "There is no token of the hub on this machine.", "Log in with: hf auth login; or set HF_TOKEN."
        )
    with _scratch(run.path) as scratch:
        _lay_out(run, source, scratch, repository, export)
        try:
            api = HfApi(token=token)
            made = api.create_repo(repository, private=private or None, exist_ok=True).repo_id
            commit = api.upload_folder(repo_id=made, folder_path=scratch, commit_message=f"Upload {what} by topiclora")
        except HUB_ERRORS as error:
            raise TopicLoraError(
                f"{repository} could not be pushed: {first_line(error)}", "Nothing else was changed; try again."
            ) from None
        return Pushed(made, what, export, _files(scratch), _local_base(scratch), address=str(commit))


def _check_name(repository: str) -> None:
    try:
        validate_repo_id(repository)
    except ValueError as error:
        raise TopicLoraError(
            f"{repository!r} is no name of a repository: {first_line(error)}", "Write user/name."
        ) from None
    if repository.count("/") != 1:
        raise TopicLoraError(f"{repository!r} names no user.", "Write user/name.")


def _source(run: RunDir, what: str, export: str | None) -> tuple[Path, str | None]:
    """The folder to publish, and the name of the export that it is of."""
    if what == "adapter":
        if export is not None:
            raise TopicLoraError(
                "--export means nothing to --what adapter.", "Leave it out, or push what the export is."
            )
        return run.require("adapter", made_by="train"), None
    merged = run.path / "merged"
    told_by = [BUNDLE] if what == "bundle" else [f"{what}/{name}" for name in _TOLD_BY]
    there = {
        file.relative_to(merged).parts[0]: file.stat().st_mtime_ns
        for name in told_by
        for file in merged.glob(f"*/{name}")
    }
    if export is None and there:
        export = max(there, key=lambda name: there[name])
    if export is None or export not in there:
        which = f"no export {export} with" if export is not None else "no export with"
        known = f" There are: {', '.join(sorted(there))}." if there else ""
        gates = ["--gates", "topic:all", "--to", "lora"] if what == "bundle" else []
        made_by = command_line("merge", "--run", run.path, *gates)
        raise TopicLoraError(f"{run.path} has {which} {what}.{known}", f"Make one with: {made_by}")
    return merged / export if what == "bundle" else merged / export / what, export


def _lay_out(run: RunDir, source: Path, folder: Path, repository: str, export: str | None) -> None:
    """The files of `source` in a folder of their own, links where the disk has them, and their card."""
    bundled = (source / BUNDLE).is_file()
    patterns = _OF_AN_ADAPTER if source == run.path else _OF_A_BUNDLE if bundled else ("**/*",)
    files = {file for pattern in patterns for file in source.glob(pattern) if file.is_file()}
    for file in sorted(files):
        if not any(part.startswith(".") for part in file.relative_to(source).parts):
            _link(file, folder / file.relative_to(source))
    gap = source.parent / GAP
    if export is not None and gap.is_file():
        _link(gap, folder / GAP)
    if bundled:
        bundle_card(read_result(source / BUNDLE, Bundle, hint=_AGAIN), repository).save(folder / CARD)
    _write_card(run, folder, repository, export)


def _link(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(file, target)


def _write_card(run: RunDir, folder: Path, repository: str, export: str | None) -> None:
    path = folder / CARD
    card = ModelCard.load(path) if path.is_file() else ModelCard("---\nlibrary_name: peft\n---\n")
    text, data = card.text, ModelCardData(**card.data.to_dict())
    for place in _PLACES:
        text = text.replace(place, repository)
    data.pipeline_tag = data.pipeline_tag or "text-generation"
    if results := eval_results(run, export):
        data.model_name, data.eval_results = repository.split("/")[1], results
    sections = card_sections(run, export=export, parameters=_parameters(folder))
    path.unlink(missing_ok=True)  # a link to the run's own
    path.write_text(f"---\n{data.to_yaml()}\n---\n\n{text.strip()}\n\n{sections}", encoding="utf-8")


def _parameters(folder: Path) -> int | None:
    """Parameters in an adapter's file, by its header alone."""
    if not (folder / _WEIGHTS).is_file():
        return None
    with safe_open(folder / _WEIGHTS, framework="pt") as opened:
        shapes = [opened.get_slice(key).get_shape() for key in opened.keys()]  # noqa: SIM118 -- no mapping
    return sum(math.prod(shape) for shape in shapes)


def _local_base(folder: Path) -> str | None:
    file = next(iter(sorted(folder.rglob(ADAPTER_CONFIG))), None)
    name = read_json(file, hint="Make it again.").get("base_model_name_or_path") if file is not None else None
    return name if name and Path(name).is_dir() else None


def _files(folder: Path) -> dict[str, int]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}


@contextmanager
def _scratch(beside: Path) -> Iterator[Path]:
    """A folder for the time of an upload, on the run's disk, so that large files need no copy."""
    with tempfile.TemporaryDirectory(prefix=".push-", dir=beside) as folder:
        yield Path(folder)
