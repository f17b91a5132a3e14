"""SAMoRA (arXiv 2604.19048) as its training script saves it: tensors without any configuration."""

import torch

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.importing.base import Base
from topiclora_cli.importing.checkpoint import Checkpoint
from topiclora_cli.importing.imported import Asked, Imported
from topiclora_cli.importing.keys import Sorted
from topiclora_cli.importing.mixture import Linear, build

_TABLE = {
    "a": "{module}.lora_A",
    "b": "{module}.lora_B",
    "keys": "{module}.lora_lambdas",
    "scale": "{module}.lora_scale",
    "embedding": "{module}.lora_task_embedding.weight",
    "gate": "{module}.lora_task_gate_weight",
}
_TEMPERATURE = 0.8  # of the authors' scripts; the training script's own default is 1


def samora(checkpoint: Checkpoint, asked: Asked, base: Base) -> Imported:
    """One task's adapter, or the one for tasks that were not trained on: the gate of the tasks' mean."""
    found = Sorted(checkpoint, _TABLE, of="SAMoRA")
    for module in found.modules:
        found.require(module, dict.fromkeys(_TABLE))
    found.complete()
    linears = {}
    for module in found.modules:
        lora_a, lora_b, keys, scale, embedding, gate = (found.one(module, part).float() for part in _TABLE)
        if asked.task is not None and not 0 <= asked.task < len(embedding):
            raise TopicLoraError(f"--task {asked.task}: the checkpoint has {len(embedding)} tasks, from 0.")
        scores = embedding @ gate
        share = (scores.mean(0) if asked.task is None else scores[asked.task]).sigmoid()
        # Neither alpha nor the rank is in the authors' product.
        scaled = torch.einsum("eor,r->ero", lora_b, scale * share)
        linears[module] = Linear(lora_a.reshape(1, *lora_a.shape[-2:]), scaled, 1.0, {"keys": keys})
    temperature = asked.temperature or _TEMPERATURE
    rank = next(iter(linears.values())).rank
    made = build(
        "samora",
        linears,
        base,
        lora_alpha=float(rank),
        shared_a=True,
        router="cosine",
        router_temperature=temperature,
    )
    which = "the mean of its tasks, for a new one" if asked.task is None else f"task {asked.task}"
    notes = [f"Imported for {which} (--task)."]
    if asked.temperature is None:
        notes.append(
            f"Its file does not say the router's temperature; {temperature}, of the authors' scripts (--temperature)."
        )
    return Imported(made.method, made.config, made.tensors, tuple(notes))
