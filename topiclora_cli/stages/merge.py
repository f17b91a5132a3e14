"""The stage that exports: fixed gates in formats that others load, and how far each is from the routed model."""

import gc
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from topiclora_cli.adapters.perft import NO_MERGE
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.merging.collapse import PlainLora, plain_lora
from topiclora_cli.merging.gates import Gates, parse_gates
from topiclora_cli.merging.self_loading import routed_parts
from topiclora_cli.recipe import Recipe
from topiclora_cli.recipe.adapter import MixtureSection
from topiclora_cli.runs.files import make_folder
from topiclora_cli.runs.naming import GAP, REQUEST, named_folder
from topiclora_cli.runs.progress import Progress
from topiclora_cli.runs.results.bundle import BUNDLE
from topiclora_cli.runs.results.export import Export
from topiclora_cli.runs.results.files import write_result
from topiclora_cli.runs.results.record import MergeFacts
from topiclora_cli.runs.run import RECIPE, RunDir
from topiclora_cli.stages.bundle import write_bundle
from topiclora_cli.stages.experts import expert_loras, mean_weights, write_experts
from topiclora_cli.stages.exports import Written, check_disk, require_converter, write_plain
from topiclora_cli.stages.gates import FixedGates, find_gates, needs_examples
from topiclora_cli.stages.inputs import adapter_folder, graph_folder, load_tuned
from topiclora_cli.stages.proof import Proof
from topiclora_cli.stages.request import asked_for
from topiclora_cli.stages.samples import calibration_rows
from topiclora_cli.stages.self_loading import FORMAT, write_routed
from topiclora_cli.stages.stage import stage
from topiclora_cli.stages.training_data import encode
from topiclora_cli.training.attach import adapts_head

EVAL = "eval"  # lm-eval's own files, in the export's folder


@dataclass(frozen=True)
class MergeResult:
    """An export: its folders by format, and what is on record of it."""

    folders: dict[str, Path]
    export: Export


def merge(
    recipe: Recipe,
    run: RunDir,
    progress: Progress,
    *,
    name: str | None = None,
    out: Path | None = None,
    force: bool = False,
) -> MergeResult:
    """Export a run's adapter in the formats of `merge.formats`, and measure each, read back from disk, beside the
    routed model.

    The export lies in `merged/NAME`, named after its gates unless told otherwise, or in `out`, which must not exist
    unless `force`; no other one is touched. Raises TopicLoraError for an adapter that equals no LoRA, for an export
    further from the routed model than merge.max_gap, of which nothing is left, for an `out` that is taken by what is no
    export, and for what `inputs` refuses.
    """
    section = recipe.merge
    asked = parse_gates(section.gates)
    fixes = set(section.formats) != {FORMAT}
    if fixes:
        refuse_unmergeable(recipe, asked)
    if out is not None and out.exists():
        _check_replaceable(out, force=force)
    if "gguf" in section.formats:
        require_converter()
    adapter_folder(recipe, run)
    graph = graph_folder(run, progress)
    rows = calibration_rows(recipe, graph) if fixes and needs_examples(asked) else []
    proof = Proof(recipe, asked if fixes else None, graph, progress)
    base, model = load_tuned(recipe, run, proof.prepare())
    if adapts_head(model):  # whose router chooses for every token
        base = replace(base, selects_logits=False)
    request = asked_for(recipe, run, "merge", "data")
    default = section.gates if fixes else FORMAT
    folder = out or named_folder(run.path / "merged", name, default=default, request=request)
    with (
        stage(run, "merge", recipe, folder=None if out else folder) as running,
        _scratch(folder, named=out is None) as scratch,
    ):
        examples = encode(recipe, base.tokenizer, rows) if rows else []
        found = find_gates(recipe, asked, base, model, examples, progress) if fixes else FixedGates({})
        exact = {each: plain_lora(model, gates) for each, gates in found.by_name.items()}
        loras = {each: cut_as_asked(recipe, plain) for each, plain in exact.items()}
        experts = expert_loras(model) if "experts" in section.formats else {}
        parts = routed_parts(model) if FORMAT in section.formats else None
        check_disk(recipe, base, {**loras, **experts}, scratch)
        proof.observe(base, model, scratch / EVAL)
        base_name = base.name or base.source
        del base, model
        gc.collect()
        written = write_plain(recipe, loras, scratch, several=asked.kind == "all")
        if experts:
            weights = mean_weights(next(iter(found.by_name.values())), experts)
            written.append(write_experts(recipe, experts, weights, scratch))
        if parts is not None:
            written.append(write_routed(recipe, parts, scratch))
        export = proof.export(written, found)
        proof.refuse_beyond(export)
        rank = max((plain.rank for plain in loras.values()), default=None)
        cut = section.rank is not None or section.energy is not None
        ranks = proof.by_rank(next(iter(exact.values()))) if cut and len(exact) == 1 else ()
        export = replace(export, rank=rank, ranks=ranks)
        if graph is not None and found.topics:
            write_bundle(recipe, base_name, loras, found, graph, scratch)
        write_result(scratch / GAP, export)
        if out is not None:
            shutil.copy(run.path / "recipes" / "merge.yaml", scratch / RECIPE)
        folders = _settle(written, scratch, folder, replace=out is not None)
        running.result = MergeFacts(folder.name, export.gates, export.kl, export.agreement, export.on)
    return MergeResult(folders, export)


def cut_as_asked(recipe: Recipe, plain: PlainLora) -> PlainLora:
    """The LoRA cut to merge.rank or merge.energy; raises TopicLoraError for a rank above what it has."""
    section = recipe.merge
    if section.rank is not None and section.rank > plain.rank:
        raise TopicLoraError(
            f"--rank {section.rank} is above the {plain.rank} at which this export is exact.",
            "Leave --rank out, or lower it.",
        )
    return plain if section.rank is None and section.energy is None else plain.cut(section.rank, section.energy)


def _check_replaceable(out: Path, *, force: bool) -> None:
    """What is no export, a run or a folder of anybody's files, is replaced with no option."""
    if not force:
        raise TopicLoraError(f"{out} exists already.", "Add --force to replace it, or choose another --out.")
    if not out.is_dir() or (any(out.iterdir()) and not (out / GAP).is_file()):
        raise TopicLoraError(f"{out} exists and is no export, which --force could replace.", "Choose another --out.")


@contextmanager
def _scratch(folder: Path, *, named: bool) -> Iterator[Path]:
    """A folder beside the export's, gone afterwards; so is the export's own where it was named for this and is
    unfinished."""
    make_folder(folder.parent)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if named and {path.name for path in folder.iterdir()} <= {REQUEST, RECIPE}:
            shutil.rmtree(folder, ignore_errors=True)


def _settle(written: list[Written], scratch: Path, folder: Path, *, replace: bool) -> dict[str, Path]:
    """Move what was written into its folder, the gap last; replace: the whole folder."""
    if replace and folder.exists():
        shutil.rmtree(folder)
    make_folder(folder)
    for path in sorted(scratch.iterdir(), key=lambda path: path.name in (GAP, BUNDLE)):
        target = folder / path.name
        if target.is_dir():
            shutil.rmtree(target)
        path.replace(target)
    formats = dict.fromkeys(each.folder.relative_to(scratch).parts[0] for each in written)
    return {format_: folder / format_ for format_ in formats}


def refuse_unmergeable(recipe: Recipe, asked: Gates) -> None:
    """Raises TopicLoraError for an adapter that equals no LoRA, whatever its gates, with the reason."""
    section = recipe.adapter
    if asked.kind == "all" and "lora" not in recipe.merge.formats:
        raise TopicLoraError("--gates topic:all makes one LoRA for each topic.", "Use --to lora.")
    if section.layer == "perft":
        raise TopicLoraError(*NO_MERGE)
    if section.layer == "xlora":
        raise TopicLoraError("X-LoRA scales its adapters by the input and equals no LoRA.", "Serve the adapter itself.")
    if not isinstance(section, MixtureSection):
        raise TopicLoraError("The adapter is no mixture and needs no fixed gates.", "Use peft's merge_and_unload.")
    if section.mixing == "ffn":
        raise TopicLoraError(
            "Experts mixed after a non-linearity (adapter.mixing: ffn) equal no LoRA, even with fixed gates.",
            "Serve the adapter itself.",
        )
