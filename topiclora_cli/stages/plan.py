"""What a training would need, found without training: the recipe on an empty model, and on the data if at hand.

Where the weights are on this machine a few real steps follow, in a folder that is gone afterwards.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from topiclora_cli.adapters.counting import RoutedLayer, activated_base_parameters, count_parameters, empty_copy
from topiclora_cli.adapters.init_from import read_loras
from topiclora_cli.adapters.moe_blocks import moe_blocks
from topiclora_cli.adapters.topiclora.same_input import same_input_families
from topiclora_cli.adapters.topiclora.scope import USUAL_FAMILIES, in_feed_forward, is_output, scope_key
from topiclora_cli.adapters.tuner import Described
from topiclora_cli.data import Encoded
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.models.base import BaseModel, load_skeleton, load_tokenizer
from topiclora_cli.models.logits import selects_logits
from topiclora_cli.models.packages import PACKAGE_PREFIX
from topiclora_cli.models.precision import store_weights_in_bfloat16
from topiclora_cli.recipe import Recipe
from topiclora_cli.recipe.adapter import ExpertsSection, MixtureSection, SizedSection
from topiclora_cli.recipe.loss import PriorForcing
from topiclora_cli.runs.processes import process_count
from topiclora_cli.runs.progress import Progress
from topiclora_cli.runs.results.metrics import read_metrics
from topiclora_cli.runs.run import METRICS
from topiclora_cli.stages.inputs import open_base
from topiclora_cli.stages.training_data import encode, training_data
from topiclora_cli.training.arguments import count_steps, per_step
from topiclora_cli.training.attach import adapts_head, attach, solve
from topiclora_cli.training.columns import Examples
from topiclora_cli.training.estimate import (
    QUANTISED,
    AdapterShape,
    BaseShape,
    Batch,
    Step,
    disk_bytes,
    training_memory,
)
from topiclora_cli.training.fit import train_adapter
from topiclora_cli.training.needs import DataNeeds, Measured, Needs

MEASURED_STEPS = 3


def estimate_needs(recipe: Recipe, progress: Progress, *, measure: bool = False, steps: bool = True) -> Needs:
    """The needs of a recipe's training on a GPU: in bfloat16, unless the recipe says float32.

    Steps are measured where the weights are on this machine, or with `measure` wherever they are; without it nothing of
    the model is downloaded. Without `steps` none is run. Raises TopicLoraError for a model whose configuration is not
    at hand, an adapter that does not fit it, and an adapter whose size is not known beforehand.
    """
    section, train = recipe.model, recipe.train
    bfloat16 = train.precision != "float32"
    skeleton = load_skeleton(section.name, config_only=not measure, upcycle=section.upcycle)
    selects = selects_logits(skeleton)
    if section.dtype != "auto":
        skeleton.to(getattr(torch, section.dtype))
    if bfloat16:
        store_weights_in_bfloat16(skeleton)
    found = same_input_families(skeleton)
    families = USUAL_FAMILIES if found is None else found
    adapted = adapted_skeleton(recipe, skeleton)
    trained, activated = count_parameters(adapted)
    selects = selects and not adapts_head(adapted)
    data, encoded = _data(recipe, selects=selects, download=measure)
    batch = Batch(train.batch_size, data.longest, data.labelled)
    embedding: Tensor = skeleton.get_input_embeddings().weight  # type: ignore[assignment]
    residual = embedding.element_size()
    memory = training_memory(
        base_shape(skeleton),
        adapter_shape(adapted, recipe, families, shared_inputs=residual == (2 if bfloat16 else 4)),
        batch,
        Step(
            base_bytes=_base_bytes(skeleton, section.quantization),
            head_bytes=_head_bytes(skeleton) if bfloat16 else 0,
            trained=trained,
            optimizer=train.optimizer,
            compute=2 if bfloat16 else 4,
            residual=residual,
            checkpointing=train.gradient_checkpointing,
            shards=process_count() if train.fsdp else 1,
        ),
    )
    length = train.max_steps or (count_steps(recipe, data.examples) if data.examples else None)
    every = (train.eval_steps if recipe.data.validation else None) or train.save_steps
    local = section.name.startswith(PACKAGE_PREFIX) or Path(section.name).is_dir()
    measures = steps and (local or measure) and encoded and process_count() == 1
    return Needs(
        base_parameters=skeleton.num_parameters(),
        base_activated=activated_base_parameters(skeleton),
        dtype=_dtypes(skeleton, section.quantization),
        trained=trained,
        activated=activated,
        batch=batch,
        memory=memory,
        data=data,
        steps=length,
        disk=disk_bytes(trained, train.optimizer, steps=length, every=every, limit=train.save_total_limit),
        measured=measure_steps(recipe, encoded, progress) if measures else None,
    )


def adapted_skeleton(recipe: Recipe, skeleton: PreTrainedModel) -> PeftModel:
    """A model without weights with the recipe's adapter, to count on; the skeleton stays as it is.

    Raises TopicLoraError for one that does not fit, and where its size is not known beforehand.
    """
    section = recipe.adapter
    if section.graph_experts == "auto":
        raise TopicLoraError(
            "adapter.num_experts: auto needs the topic graph, which --dry-run does not build.",
            "Give a number: --set adapter.num_experts=8",
        )
    if section.layer == "xlora":
        raise TopicLoraError("What xlora needs depends on the adapters it mixes.", "Dry-run another adapter.method.")
    extra = read_loras(section.trained).settings() if section.trained else {}
    with torch.device("meta"):
        return attach(empty_copy(skeleton), solve(section, skeleton, **extra))


def count_examples(recipe: Recipe) -> int | None:
    """Examples that a training reads in an epoch; None where they, or the tokenizer, are not on this machine."""
    return _data(recipe, selects=False, download=False)[0].examples


def base_shape(skeleton: PreTrainedModel) -> BaseShape:
    """The sizes that the memory of a model's activations depends on."""
    config = skeleton.config.get_text_config()
    heads = config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    width = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    if blocks := moe_blocks(skeleton):
        expert = getattr(config, "moe_intermediate_size", None) or width
        # The weight of each expert's output keeps that output, too: k h, in units of the 3 f of the formula.
        width = blocks[0].top_k * (expert + config.hidden_size // 3)
        width += getattr(config, "shared_expert_intermediate_size", None) or 0
    return BaseShape(config.num_hidden_layers, config.hidden_size, heads * head, width, config.vocab_size)


def adapter_shape(
    adapted: PeftModel, recipe: Recipe, families: Sequence[Sequence[str]], *, shared_inputs: bool
) -> AdapterShape:
    """The adapters' sizes; families: what reads the same tensor; shared_inputs: whether such linears keep it once."""
    section = recipe.adapter
    kept: dict[str, int] = {}
    uncast: dict[str, int] = {}
    gates: dict[str, int] = {}
    inputs = rank_space = 0
    dropout = section.lora_dropout if isinstance(section, SizedSection) else 0.0
    redrawn = dropout > 0 and isinstance(section, ExpertsSection) and section.expert_dropout == "own"
    masks = dropout > 0 and not redrawn
    one_a = isinstance(section, MixtureSection) and section.shared_a
    router_scope = section.router_scope if isinstance(section, MixtureSection) else "linear"
    for name, module in adapted.named_modules():
        if not isinstance(module, BaseTunerLayer) or not isinstance(module.get_base_layer(), nn.Module):
            continue
        routed, rank, router, shared = _describe(module)
        experts = routed + shared
        size: int = getattr(module, "in_features", 0)
        inputs += size
        rank_space += rank * (1 if one_a else experts)
        if router != "-":
            scope = scope_key(name, router_scope, families)
            # The first layer of a scope owns the router; a block's last layer reads what is in 16 bits already.
            if scope not in gates and not is_output(name):
                uncast[scope_key(name, "group", families)] = size
            gates[scope] = experts
        # Where each expert's mask is drawn again, the tensor that it is drawn for is kept as it came.
        if redrawn and not shared_inputs and not is_output(name):
            uncast[scope_key(name, "group", families)] = size
        # The input of attention's last layer is its output, which is kept anyway.
        elif in_feed_forward(name) or not is_output(name):
            # peft's own layers go by float32 and round each for itself.
            shares = shared_inputs and isinstance(module, RoutedLayer)
            kept[scope_key(name, "group" if shares else "linear", families)] = size
    return AdapterShape(
        sum(kept.values()), sum(uncast.values()), inputs if masks else 0, rank_space, sum(gates.values())
    )


def _describe(module: Any) -> Described:
    """Experts, rank and router of an adapted layer; peft's own are single experts."""
    adapter = module.active_adapters[0]
    return module.describe(adapter) if isinstance(module, RoutedLayer) else Described(1, module.r[adapter], "-")


def _base_bytes(skeleton: PreTrainedModel, quantization: str | None) -> float:
    packed: dict[int, float] = {}
    if quantization is not None:
        head = skeleton.get_output_embeddings()
        linears = (module for module in skeleton.modules() if isinstance(module, nn.Linear) and module is not head)
        packed = {id(linear.weight): QUANTISED[quantization] for linear in linears}
    return sum(p.numel() * packed.get(id(p), p.element_size()) for p in skeleton.parameters())


def _head_bytes(skeleton: PreTrainedModel) -> int:
    """Of the head's copy in bfloat16, which autocast makes of a head in another dtype (one tied to the embedding)."""
    weight = skeleton.get_output_embeddings().weight
    return 0 if weight.dtype == torch.bfloat16 else 2 * weight.numel()


def _dtypes(skeleton: PreTrainedModel, quantization: str | None) -> str:
    """The dtypes that weights are kept in, the most frequent first."""
    sizes: dict[str, int] = {}
    for parameter in skeleton.parameters():
        name = str(parameter.dtype).removeprefix("torch.")
        sizes[name] = sizes.get(name, 0) + parameter.numel()
    names = sorted(sizes, key=lambda name: -sizes[name])
    return ", ".join([*([f"{quantization} linear layers"] if quantization else []), *names])


def _data(recipe: Recipe, *, selects: bool, download: bool) -> tuple[DataNeeds, list[Encoded]]:
    """selects: whether logits are made only where a labelled token comes next."""
    most = recipe.data.max_length
    try:
        rows = training_data(recipe).train
    except TopicLoraError as error:
        return DataNeeds(None, None, most, most, error.message), []
    examples = len(rows)
    tokenizer = load_tokenizer(recipe.model.name, local_files_only=not download)
    if tokenizer is None:
        return DataNeeds(examples, None, most, most, "the model's tokenizer is not on this machine"), []
    encoded = encode(recipe, tokenizer, rows)
    examples, tokens = len(encoded), sum(len(example.input_ids) for example in encoded)
    if recipe.data.streaming:
        read, examples = examples, (recipe.train.max_steps or 0) * per_step(recipe)
        tokens = round(tokens / read * examples)
    longest = labelled = max(len(example.input_ids) for example in encoded)
    if selects:
        first = [1 if recipe.data.train_on_prompt else example.prompt_length for example in encoded]
        labelled = max(len(example.input_ids) - start for example, start in zip(encoded, first, strict=True))
    return DataNeeds(examples, tokens, longest, labelled), encoded


def measure_steps(
    recipe: Recipe,
    encoded: Sequence[Encoded],
    progress: Progress,
    base: BaseModel | None = None,
    *,
    steps: int = MEASURED_STEPS,
) -> Measured:
    """A few real steps on the recipe's own batches, without the prior: the topic graph is not built for them.

    base: loaded unless given; it is adapted then, and of no further use. steps: the first warms up and is not measured.
    """
    few: dict[str, Any] = {
        "max_steps": steps,
        "logging_steps": 1,
        "save_steps": steps,
        "eval_steps": None,
        "load_best": False,
        "report_to": [],
    }
    unforced = recipe.loss.model_copy(update={"prior_forcing": PriorForcing()})
    short = recipe.model_copy(update={"train": recipe.train.model_copy(update=few), "loss": unforced})
    with TemporaryDirectory() as folder:
        base = base or open_base(short)
        train_adapter(base, Examples(encoded), short, folder=Path(folder), resume=False, progress=progress)
        rows = [row.values for row in read_metrics(Path(folder) / METRICS) if "tokens_per_second" in row.values]
    speed = fmean(row["tokens_per_second"] for row in rows[1:])
    tokens = fmean(len(example.input_ids) for example in encoded) * per_step(recipe)
    peak = max(row["memory_gib"] for row in rows)
    return Measured(tokens / speed, speed, peak, base.model.device.type, len(rows))
