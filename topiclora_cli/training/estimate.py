"""The memory of a training step as arithmetic: sizes in, bytes out, nothing loaded and nothing run.

What autograd keeps for one token in one decoder layer of hidden size h, attention width q and active feed-forward width
f, with c bytes a number in computation (2 under bfloat16 autocast) and b in the residual stream (the model's dtype):

    8 h                     the inputs of two norms, which compute in float32
    4 c q                   queries, keys and values (repeated where heads share them), and the attention's output
    3 c f                   the feed-forward block's gate before and after its activation, and its other factor
    c s                     the attention mask in rows of s tokens, which every layer makes anew
    c d_in                  the input of every adapted linear layer; where b = c, those of ours that read one tensor
                            share it
    c n r, GATE n           the rank space of a linear layer's n experts, and a router's gates
    b d_in                  where b > c, the input of a router: its product stays in float32
    2 c d_in                with dropout: the mask and what it leaves; each expert's own is drawn again instead, from
                            the input that a router reads

The weights of the adapters, rounded to c bytes, are kept beside that, as are those of a head in another dtype.
Gradient checkpointing keeps b h for each token and layer, and all of the above for one layer at a time. Logits stand at
the positions that carry a label or predict one, at LOGIT bytes an entry. Backward works on a layer's gradients,
2 b h + 3 c f for each token, when the logits are gone.

Left out: what the allocator wastes and the libraries take. An attention that is not computed in blocks (SDPA's maths)
keeps its scores, too, and a feed-forward block without a gate keeps one tensor less.
"""

from dataclasses import dataclass

# Bytes per expert and router: probabilities, gates and what of them was chosen, measured for top-2 of 8.
GATE = 12
# bfloat16 logits (2), their float32 logarithms of probabilities (4), and gradients of both in float32 and one rounded.
LOGIT = 14
# Bytes of optimizer state for each trained parameter.
OPTIMIZER_STATE = {
    "adamw_torch": 8,
    "adamw_torch_fused": 8,
    "adamw_8bit": 2,
    "paged_adamw_8bit": 2,
    "paged_adamw_32bit": 8,
    "lion_32bit": 4,
    "lion_8bit": 1,
    "paged_lion_8bit": 1,
    "adafactor": 0,
    "sgd": 0,
}
# Bytes of one weight of a quantised linear layer: NF4 with its scales quantised again, and LLM.int8.
QUANTISED = {"4bit": 0.516, "8bit": 1.0}


@dataclass(frozen=True)
class BaseShape:
    """A model's sizes: `attention` is heads times their size, `feed_forward` the width one token passes through."""

    layers: int
    hidden: int
    attention: int
    feed_forward: int
    vocabulary: int


@dataclass(frozen=True)
class AdapterShape:
    """Sums over all adapted linear layers: inputs kept as they are computed with and as the residual stream has them,
    those under a mask that is kept, numbers in rank space, and experts with a gate."""

    kept_inputs: int
    uncast_inputs: int
    masked_inputs: int
    rank_space: int
    gates: int


@dataclass(frozen=True)
class Batch:
    """The widest micro-batch of one process: examples, tokens of each with padding, and positions with logits."""

    examples: int
    width: int
    labelled: int

    @property
    def tokens(self) -> int:
        """Tokens in all, padding included."""
        return self.examples * self.width


@dataclass(frozen=True)
class Step:
    """How one process computes a training step.

    base_bytes: of the frozen weights as they are kept; head_bytes: of a head rounded in every step, else 0. trained:
    parameters, in float32. compute, residual: bytes a number. shards: over how many processes FSDP spreads weights,
    gradients and optimizer; each gathers one layer.
    """

    base_bytes: float
    head_bytes: float
    trained: int
    optimizer: str
    compute: int
    residual: int
    checkpointing: bool
    shards: int = 1


@dataclass(frozen=True)
class Memory:
    """Bytes that one process holds at the peak of a training step, by what they are for."""

    base: float
    adapter: float
    gradients: float
    optimizer: float
    activations: float
    logits_or_work: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.base + self.adapter + self.gradients + self.optimizer + self.activations + self.logits_or_work


def kept_per_token(base: BaseShape, adapter: AdapterShape, *, width: int, compute: int, residual: int) -> float:
    """Bytes that all layers keep of one token, in rows of `width`, without checkpointing and without weights."""
    plain = base.layers * (8 * base.hidden + compute * (4 * base.attention + 3 * base.feed_forward + width))
    apart = residual * adapter.uncast_inputs if residual > compute else 0
    adapted = compute * (adapter.kept_inputs + adapter.rank_space + 2 * adapter.masked_inputs)
    return plain + adapted + apart + GATE * adapter.gates


def training_memory(base: BaseShape, adapter: AdapterShape, batch: Batch, step: Step) -> Memory:
    """Memory at the peak of a step, by the formula above."""
    layers = (
        kept_per_token(base, adapter, width=batch.width, compute=step.compute, residual=step.residual) * batch.tokens
    )
    rounded = step.compute * step.trained if step.compute < 4 else 0
    work: float = (2 * step.residual * base.hidden + 3 * step.compute * base.feed_forward) * batch.tokens
    kept: float = layers + rounded
    if step.checkpointing:
        work += kept / base.layers
        kept = base.layers * step.residual * base.hidden * batch.tokens
    gathered = step.base_bytes / base.layers if step.shards > 1 else 0
    return Memory(
        base=step.base_bytes / step.shards + gathered,
        adapter=4 * step.trained / step.shards,
        gradients=4 * step.trained / step.shards,
        optimizer=OPTIMIZER_STATE[step.optimizer] * step.trained / step.shards,
        activations=kept + step.head_bytes,
        logits_or_work=max(work, LOGIT * base.vocabulary * batch.examples * batch.labelled),
    )


def checkpoint_bytes(trained: int, optimizer: str) -> int:
    """What one checkpoint takes on disk: the adapter in float32 and the optimizer's state."""
    return (4 + OPTIMIZER_STATE[optimizer]) * trained


def disk_bytes(trained: int, optimizer: str, *, steps: int | None, every: int, limit: int) -> int:
    """What checkpoints and the finished adapter take on disk: `limit` of them, or as many as so many steps make."""
    kept = limit if steps is None else min(limit, -(-steps // every))
    return kept * checkpoint_bytes(trained, optimizer) + 4 * trained
