"""The stage that exports: fixed gates, a stock LoRA and a dense model, and how far they are from the routed model."""

from dataclasses import dataclass
from pathlib import Path

from topiclora_cli.adapters.card import Card, write_dense_card
from topiclora_cli.adapters.observe import observe_gates
from topiclora_cli.adapters.perft import NO_MERGE
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.merging.collapse import merge_into_base, plain_lora
from topiclora_cli.merging.gap import measure_gap
from topiclora_cli.models.precision import use_bfloat16
from topiclora_cli.recipe import Recipe
from topiclora_cli.recipe.adapter import MixtureSection
from topiclora_cli.runs.files import replacing
from topiclora_cli.runs.naming import GAP, named_folder
from topiclora_cli.runs.progress import Progress, tracked
from topiclora_cli.runs.results.export import Export
from topiclora_cli.runs.results.files import write_result
from topiclora_cli.runs.results.record import MergeFacts
from topiclora_cli.runs.run import RunDir
from topiclora_cli.stages.inputs import adapter_folder, asked_for, graph_folder, load_tuned, make_batches, open_base
from topiclora_cli.stages.samples import calibration_rows, examples_to_measure_on, gates_topic
from topiclora_cli.stages.stage import stage
from topiclora_cli.stages.training_data import encode
from topiclora_cli.training.saving import save_adapter


@dataclass(frozen=True)
class MergeResult:
    """An export with fixed gates: its folders by format, and what is on record of it."""

    folders: dict[str, Path]
    export: Export


def merge(recipe: Recipe, run: RunDir, progress: Progress, *, name: str | None = None) -> MergeResult:
    """Fix the gates, export a stock LoRA and a dense model, and measure how far the export is from the routed model.

    The export lies in `merged/NAME`, named after its gates unless told otherwise; no other one is touched. Raises
    TopicLoraError for an adapter that equals no LoRA, and for what `inputs` refuses.
    """
    section = recipe.merge
    _refuse_unmergeable(recipe)
    bfloat16 = use_bfloat16(recipe.train.precision)
    adapter_folder(recipe, run)
    graph = graph_folder(run, progress)
    topic, rows = gates_topic(recipe), calibration_rows(recipe, graph)
    base, model = load_tuned(recipe, run)
    request = asked_for(recipe, run, "merge", "data")
    folder = named_folder(run.path / "merged", name, default=section.gates, request=request)
    with stage(run, "merge", recipe, folder=folder) as running:
        calibration = encode(recipe, base.tokenizer, rows)
        batches = tracked(progress, "gates of training examples", make_batches(base, calibration, tokens="all"))
        observed = observe_gates(model, batches, bfloat16=bfloat16, shared=True)
        gates = {linear: values.mean(0) for linear, values in observed.items()}
        measured = examples_to_measure_on(recipe, base, section.calibration, graph, topic=topic)
        lora = plain_lora(model, gates).onto(open_base(recipe, exact=True).model)
        held_out = tracked(progress, "export against routing", make_batches(base, measured.examples))
        gap = measure_gap(model, lora, held_out, bfloat16=bfloat16)
        folders: dict[str, Path] = {format_: folder / format_ for format_ in section.formats}
        if "lora" in folders:
            save_adapter(lora, folders["lora"], card=_card(section.gates), about=base.about)
        if "dense" in folders:
            with replacing(folders["dense"]) as temporary:
                merge_into_base(lora).save_pretrained(temporary)
                base.tokenizer.save_pretrained(temporary)
                write_dense_card(temporary, base.name or base.source, section.gates)
        export = Export(
            section.gates, gap.kl, gap.agreement, gap.tokens, measured.kind, len(measured.examples), len(calibration)
        )
        running.result = MergeFacts(folder.name, export.gates, export.kl, export.agreement, export.on)
        write_result(folder / GAP, export)
    return MergeResult(folders, export)


def _card(gates: str) -> Card:
    return Card(
        title="LoRA with fixed gates",
        summary=f"A plain LoRA in the place of a mixture of LoRA experts, whose gates are fixed for it ({gates}).",
        serving="Whatever serves a LoRA serves it.",
        shown=("r", "lora_alpha"),
        stock=True,
    )


def _refuse_unmergeable(recipe: Recipe) -> None:
    section = recipe.adapter
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
