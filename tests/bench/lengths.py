"""What batching saves: train steps on texts of real lengths, with all logits, with those of labels, and in fewer rows.

lengths.json has the tokens of prompt and completion of 256 random BIG-bench training examples (75 tasks, Apache-2.0) in
SmolLM2's tokens, cut at 512. Every case sees the same examples, so its time is to the anchor's as the anchor's real
tokens per second are to its own.
"""

import json
from functools import partial
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor

from tests.bench.models import EXPERTS, Candidate, mixture, random_llama
from tests.bench.report import Bar, Line, Suite
from tests.bench.suites import Settings
from tests.bench.timing import interleave, timed
from tests.bench.training import Trainer
from topiclora_cli.adapters.observe import autocast
from topiclora_cli.adapters.record import record_routing
from topiclora_cli.models.precision import store_weights_in_bfloat16, use_bfloat16
from topiclora_cli.recipe.loss import LossSection
from topiclora_cli.training.batch import Batch
from topiclora_cli.training.collate import Collator
from topiclora_cli.training.sampler import LengthBlockSampler
from topiclora_cli.training.step import Step
from topiclora_cli.training.terms import loss_terms
from topiclora_cli.training.whole_step import count_step

EXAMPLES, BATCH = 64, 16  # one pass of every case is four steps, a whole block of the sampler
FULL = "random batches, all logits"
# Select logits, group by length, pack; and what of the anchor's time may be left.
CASES: dict[str, tuple[bool, bool, bool, Bar | None]] = {
    FULL: (False, False, False, None),
    "labelled positions": (True, False, False, Bar(1 / 1.25)),
    "labelled, grouped by length": (True, True, False, Bar(1 / 1.7)),
    "labelled, packed": (True, False, True, Bar(1 / 1.9)),
    "labelled, grouped, packed": (True, True, True, Bar(1 / 1.9)),
}


def lengths(settings: Settings) -> Suite:
    """Four train steps of sixteen examples each, by how they are batched."""
    bfloat16 = settings.device.type == "cuda" or use_bfloat16("auto")
    base = random_llama(settings.shape, settings.device)
    if bfloat16:
        store_weights_in_bfloat16(base)
    model = mixture(base).train()
    rows = _rows(settings.shape.vocab)
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    trainer = Trainer(Candidate(partial(_loss, model, bfloat16), list(model.parameters()), trainable), settings.device)
    passes = {name: _batches(rows, *how[:3], settings.device) for name, how in CASES.items()}

    def train(batches: list[dict[str, Tensor]]) -> None:
        for batch in batches:
            trainer.step(batch)

    cases = {name: timed(partial(train, batches), settings.device) for name, batches in passes.items()}
    saved = {name: trainer.saved_bytes(max(batches, key=_size)) for name, batches in passes.items()}
    timings = interleave(cases, FULL, settings.pairs)
    tokens = sum(len(row["input_ids"]) for row in rows)
    lines = [
        Line(f"{BATCH} examples", name, timing, CASES[name][3], saved[name], saved[name] / saved[FULL])
        for name, timing in timings.items()
    ]
    speeds = ", ".join(f"{tokens / timing.seconds:.0f}" for timing in timings.values())
    return Suite("batches of real lengths", FULL, lines, f"real tokens per second: {speeds}")


def _rows(vocabulary: int) -> list[dict[str, list[int] | int | list[float] | float]]:
    generator = torch.Generator().manual_seed(0)
    rows = []
    for prompt, completion in json.loads(Path(__file__).with_suffix(".json").read_text())[:EXAMPLES]:
        ids = torch.randint(vocabulary, (prompt + completion,), generator=generator)
        prior = torch.rand(EXPERTS, generator=generator).softmax(-1)
        rows.append({"input_ids": ids.tolist(), "prompt_length": prompt, "prior": prior.tolist(), "confidence": 1.0})
    return rows


def _batches(
    rows: list[dict], select_logits: bool, grouped: bool, packed: bool, device: torch.device
) -> list[dict[str, Tensor]]:
    sizes = [len(row["input_ids"]) for row in rows]
    order = list(LengthBlockSampler(sizes, BATCH, seed=0)) if grouped else range(len(rows))
    chosen = [rows[index] for index in order]
    collate = Collator(pad_token_id=0, select_logits=select_logits, packed=packed)
    batches = [collate(chosen[start : start + BATCH]) for start in range(0, len(chosen), BATCH)]
    return [{name: tensor.to(device) for name, tensor in batch.items()} for batch in batches]


def _loss(model: PeftModel, bfloat16: bool, collated: dict[str, Tensor]) -> Tensor:
    batch = Batch.of(collated)
    with autocast(bfloat16, batch.token_mask.device), record_routing(model) as record:
        loss = model(**batch.inputs).loss
    batch.arrange(record)
    step = Step(record, model, LossSection(), 0.5, batch.token_mask, batch.prompt_mask, batch.prior, batch.confidence)
    terms = loss_terms(step, count_step([batch], None), {})  # the KL alone, which is no mean over tokens
    return loss + sum(weight * value for weight, value in terms.values())


def _size(batch: dict[str, Tensor]) -> int:
    return batch["input_ids"].numel()
