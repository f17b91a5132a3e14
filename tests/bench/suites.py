"""The bench's questions: a train step, growth with the number of experts, generation, and the peers.

The bars are the project's own; PEFT LoRA of the same total rank is the anchor wherever users would otherwise take it.
"""

from dataclasses import dataclass, replace
from functools import partial

import torch
from peft import PeftModel
from torch import Tensor, nn

from tests.bench import moe
from tests.bench.models import EXPERTS, LORA_RANK, RANK, Shape, causal_lm, mixture, plain_lora, random_llama
from tests.bench.peer_process import PeerProcess
from tests.bench.peers import CONTROL, SIZE
from tests.bench.report import Bar, Line, Suite
from tests.bench.timing import Timing, interleave, timed
from tests.bench.training import Trainer, autocast, random_tokens

LORA = f"PEFT LoRA r={LORA_RANK}"
OURS = "ours, router per layer"
OURS_PER_LINEAR = "ours, router per linear"
OURS_SHARED = "ours, half of the experts shared"
SAVED_BAR = Bar(1.02)
# Batch x length, and the bars of the two router scopes in it.
TRAIN_SIZES = {
    (4, 32): {OURS: Bar(1.06)},
    (4, 128): {OURS: Bar(1.00), OURS_SHARED: Bar(1.00), OURS_PER_LINEAR: Bar(1.05)},
    (4, 256): {OURS: Bar(1.00), OURS_SHARED: Bar(1.00), OURS_PER_LINEAR: Bar(1.05)},
}
GROWTH = (2, 4, 8, 16, 32, 64)
GROWTH_BARS = {64: Bar(1.8)}
GENERATED = 32  # tokens, after a prompt of as many
GENERATE_BARS = {OURS: Bar(1.15)}
PEER_TIME_BAR, PEER_SAVED_BAR = Bar(1.3, at_least=True), Bar(1.9, at_least=True)


@dataclass(frozen=True)
class Settings:
    """What the command line fixes for every suite."""

    shape: Shape
    device: torch.device
    pairs: int


def train_step(settings: Settings) -> Suite:
    """Train steps against plain LoRA, and the bytes they save for backward."""
    trainers = {
        name: Trainer(causal_lm(model.train()), settings.device) for name, model in _contestants(settings).items()
    }
    lines = []
    for (batch, length), time_bars in TRAIN_SIZES.items():
        tokens = random_tokens(settings.shape.vocab, batch, length, settings.device)
        cases = {name: timed(partial(trainer.step, tokens), settings.device) for name, trainer in trainers.items()}
        saved = {name: trainer.saved_bytes(tokens) for name, trainer in trainers.items()}
        timings = interleave(cases, LORA, settings.pairs)
        saved_bars = dict.fromkeys((OURS, OURS_SHARED, OURS_PER_LINEAR), SAVED_BAR)
        lines += _step_lines(f"{batch} x {length}", LORA, timings, saved, time_bars, saved_bars)
    return Suite("train step", LORA, lines)


def growth(settings: Settings) -> Suite:
    """Forward and backward of one decoder layer as experts are added, by each kernel, over the frozen layer's.

    AdamW is a case of its own: its time follows the number of parameters, however their gradients were computed.
    """
    frozen = "frozen base layer"
    base = random_llama(replace(settings.shape, layers=1), settings.device)
    shape = (4, 128, settings.shape.hidden)
    inputs = torch.randn(shape, dtype=base.dtype, device=settings.device, requires_grad=True)
    lines: list[Line] = []
    by_experts: dict[int, dict[str, Timing]] = {}
    for experts in GROWTH:
        models = {kernel: mixture(base, experts=experts, kernel=kernel) for kernel in ("auto", "dense", "sparse")}
        decoders = {frozen: base.model} | {kernel: model.get_base_model().model for kernel, model in models.items()}
        cases = {
            name: timed(partial(_forward_backward, decoder.train(), inputs), settings.device)
            for name, decoder in decoders.items()
        }
        optimizer = torch.optim.AdamW(causal_lm(models["auto"]).trainable, fused=True)
        cases["AdamW"] = timed(optimizer.step, settings.device)  # on the gradients that "auto" left
        timings = interleave(cases, frozen, settings.pairs)
        bars = {"auto": GROWTH_BARS.get(experts)}
        lines += [Line(f"E = {experts}", name, timing, bars.get(name)) for name, timing in timings.items()]
        by_experts[experts] = timings
    return Suite("growth with E", frozen, lines, _crossover(by_experts))


def _crossover(by_experts: dict[int, dict[str, Timing]]) -> str:
    wins, regrets = [], []
    for experts, timings in by_experts.items():
        auto, dense, sparse = (timings[kernel].ratio for kernel in ("auto", "dense", "sparse"))
        regrets.append(auto / min(dense, sparse))
        if sparse < dense:
            wins.append(str(experts))
    return f"sparse beats dense at E = {', '.join(wins) or 'none'}; auto within {max(regrets):.2f}x of the faster"


def _forward_backward(decoder: nn.Module, inputs: Tensor) -> None:
    decoder.zero_grad(set_to_none=True)
    inputs.grad = None
    with autocast(inputs.device):
        outputs = decoder(inputs_embeds=inputs, use_cache=False).last_hidden_state
    outputs.backward(torch.ones_like(outputs))


def generation(settings: Settings) -> Suite:
    """Greedy generation with a cache, against plain LoRA unmerged."""
    models = _contestants(settings)
    lines = []
    for batch in (1, 8):
        tokens = random_tokens(settings.shape.vocab, batch, GENERATED, settings.device)
        cases = {
            name: timed(partial(_generate, model.eval(), tokens), settings.device) for name, model in models.items()
        }
        timings = interleave(cases, LORA, settings.pairs)
        lines += [Line(f"batch {batch}", name, timing, GENERATE_BARS.get(name)) for name, timing in timings.items()]
    return Suite(f"generate {GENERATED} tokens", f"{LORA}, unmerged", lines)


def _generate(model: PeftModel, tokens: Tensor) -> None:
    with autocast(tokens.device):
        model.generate(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=GENERATED,
            min_new_tokens=GENERATED,
            do_sample=False,
        )


def against_peers(settings: Settings, peers: PeerProcess) -> Suite:
    """Train steps of other mixtures, in the environment their libraries need, against ours in this one."""
    tokens = random_tokens(settings.shape.vocab, *SIZE, settings.device)
    base = random_llama(settings.shape, settings.device)
    trainers = {
        name: Trainer(causal_lm(model.train()), settings.device)
        for name, model in {OURS: mixture(base), LORA: plain_lora(base)}.items()
    }
    cases = {name: timed(partial(trainer.step, tokens), settings.device) for name, trainer in trainers.items()}
    saved = {name: trainer.saved_bytes(tokens) for name, trainer in trainers.items()} | peers.saved
    timings = interleave(cases | peers.cases(), OURS, settings.pairs)
    rivals = [name for name in peers.saved if name != CONTROL]
    time_bars, saved_bars = dict.fromkeys(rivals, PEER_TIME_BAR), dict.fromkeys(rivals, PEER_SAVED_BAR)
    setting = "{} x {}".format(*SIZE)
    return Suite("train step of peers", OURS, _step_lines(setting, OURS, timings, saved, time_bars, saved_bars))


def mixture_of_experts(settings: Settings) -> Suite:
    """Train steps of adapters on a sparse mixture-of-experts base; the shape is the suite's own."""
    tokens = random_tokens(moe.VOCABULARY, moe.BATCH, moe.LENGTH, settings.device)
    lines: list[Line] = []
    notes = []
    for experts in moe.SIZES:
        trainers = {n: Trainer(c, settings.device) for n, c in moe.contestants(experts, settings.device).items()}
        cases = {name: timed(partial(trainer.step, tokens), settings.device) for name, trainer in trainers.items()}
        saved = {name: trainer.saved_bytes(tokens) for name, trainer in trainers.items()}
        timings = interleave(cases, moe.FROZEN, settings.pairs)
        lines += _step_lines(str(experts), moe.FROZEN, timings, saved, moe.STEP_BARS.get(experts, {}), {})
        slower = timings[moe.FUSED_LORA].ratio / timings[moe.ROUTED].ratio
        fatter = saved[moe.FUSED_LORA] / saved[moe.ROUTED]
        notes.append(f"{experts}: LoRA on the experts {slower:.2f} x the time and {fatter:.2f} x the bytes of PERFT-R")
    return Suite("train step on a mixture-of-experts model", moe.FROZEN, lines, "\n".join(notes))


def _contestants(settings: Settings) -> dict[str, PeftModel]:
    base = random_llama(settings.shape, settings.device)
    return {
        LORA: plain_lora(base),
        OURS: mixture(base),
        OURS_SHARED: mixture(base, shared=EXPERTS, rank=RANK // 2),
        OURS_PER_LINEAR: mixture(base, router_scope="linear"),
    }


def _step_lines(
    setting: str,
    anchor: str,
    timings: dict[str, Timing],
    saved: dict[str, int],
    time_bars: dict[str, Bar],
    saved_bars: dict[str, Bar],
) -> list[Line]:
    return [
        Line(
            setting,
            name,
            timing,
            time_bars.get(name),
            saved=saved[name],
            saved_ratio=saved[name] / saved[anchor],
            saved_bar=saved_bars.get(name),
        )
        for name, timing in timings.items()
    ]
