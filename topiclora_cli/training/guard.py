"""Training that cannot go on says why, and what to change, before it has spoilt the weights."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from topiclora_cli.errors import Diverged, TopicLoraError
from topiclora_cli.recipe.train import TrainSection

_SHOWN = 80  # characters of an example
# torch has a class of its own for a full GPU, but for full main memory only these words.
_FULL = ("out of memory", "can't allocate memory", "not enough memory")

# cuDNN's backward, the default on H100 and H200 since torch 2.11, gives queries gradients that are no numbers where a
# batch is 64 tokens wide, or 64 more than a multiple of 128, and has a mask (pytorch issue 196678).
_SOUND = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)


def finite_attention() -> AbstractContextManager[None]:
    """Attention in the block, backward too, by the kernels that are known to be sound under masks of padding."""
    return sdpa_kernel(list(_SOUND))


@contextmanager
def explain_full_memory(train: TrainSection) -> Iterator[None]:
    """Raises TopicLoraError for memory that ran out in the block, naming the keys that lower the need for it."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_full_memory(error):
            raise
        device = "GPU" if isinstance(error, torch.OutOfMemoryError) else "main"
        raise TopicLoraError(
            f"Out of {device} memory in training, with train.batch_size {train.batch_size}.", _advice(train)
        ) from error


def is_full_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _FULL)


def not_finite(step: int, examples: list[str]) -> Diverged:
    """The error for a loss or gradient that is no number; `examples` open the micro-batches that it came from."""
    shown = " and ".join(repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...") for text in examples[:2])
    where = f", in the batch that starts with {shown}" if shown else ", in a batch of another process"
    return Diverged(
        f"The loss or its gradient is not finite at step {step}{where}.",
        "The last checkpoint is from before. Lower train.learning_rate, or look at that example.",
    )


def _advice(train: TrainSection) -> str:
    advice = []
    if train.batch_size > 1:
        smaller = max(size for size in range(1, train.batch_size // 2 + 1) if train.batch_size % size == 0)
        times = train.gradient_accumulation * train.batch_size // smaller
        advice.append(
            f"train.batch_size={smaller} with train.gradient_accumulation={times} gives the same curve in "
            f"{train.batch_size // smaller} times as many parts"
        )
    if not train.gradient_checkpointing:
        advice.append("train.gradient_checkpointing=true computes the same in more time")
    advice.append("a lower data.max_length leaves the longest examples out")
    return f"Use --set: {'; '.join(advice)}."
