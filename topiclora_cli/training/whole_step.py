"""The whole optimizer step that a micro-batch belongs to: what losses are divided by, and what they are judged with.

A step is all micro-batches of all processes. A mean over its tokens or examples is the sum of each micro-batch's part
of it, so only the counts have to be known before the first of them is run. A function of such means (a balance, say)
also has to know the means: its gradient at each token depends on what all the others do. One micro-batch a process
exchanges them after its forward pass. Several need them before the first backward pass, so the step's examples are
read once without gradients, as GradCache does for contrastive losses (arXiv 2101.06983): a forward pass more, and only
for terms that are not means themselves. Published balances mostly are of a batch in one piece, and balance over few
examples works against specialised experts (arXiv 2501.11873), so taking the pieces' losses was no way out.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor

from topiclora_cli.training.batch import Batch
from topiclora_cli.training.losses.common import token_sum

Parts = dict[str, Tensor]


@dataclass(frozen=True)
class WholeStep:
    """tokens, examples: of the step, over all processes; micro_batches: of this process; processes: how many.

    means: the step's means that some terms are functions of, by name; empty where there are none. label_weight:
    the sum of the labels' weights, over all processes, 0 where labels have none.
    """

    tokens: Tensor
    examples: Tensor
    micro_batches: int
    processes: int
    means: Mapping[str, Tensor]
    label_weight: Tensor = field(default_factory=lambda: torch.zeros(()))

    def of_tokens(self, values: Tensor, mask: Tensor) -> Tensor:
        """A micro-batch's part of the step's mean over tokens: values (B, S, ...), mask (B, S) -> (...)."""
        return token_sum(values, mask=mask) / self.tokens

    def of_examples(self, values: Tensor) -> Tensor:
        """A micro-batch's part of the step's mean over examples: values (B, ...) -> (...)."""
        return values.sum(0) / self.examples

    def of_labels(self, values: Tensor, weights: Tensor) -> Tensor:
        """A micro-batch's share of the step's weighted mean over labels, both (n,): shares' sum over micro-batches,
        averaged over processes, is the mean; 0 where nothing in the step has weight.
        """
        return self.processes * (values * weights).sum() / self.label_weight.clamp_min(torch.finfo(torch.float32).tiny)


def count_step(batches: Sequence[Batch], accelerator: Accelerator | None) -> WholeStep:
    """The step that these micro-batches are, with those of all other processes; of this process alone without one."""
    device = batches[0].token_mask.device if accelerator is None else accelerator.device
    here = torch.stack([batch.token_mask.sum().to(device, torch.float32) for batch in batches]).sum()
    examples = here.new_tensor(sum(len(batch.token_mask) for batch in batches))
    weights = [batch.label_weights.sum().to(device) for batch in batches if batch.label_weights is not None]
    counts = torch.stack([here, examples, sum(weights, start=here.new_zeros(()))])
    everywhere = add_up({"counts": counts}, accelerator)["counts"]
    processes = 1 if accelerator is None else accelerator.num_processes
    return WholeStep(everywhere[0], everywhere[1], len(batches), processes, {}, everywhere[2])


def add_up(parts: Mapping[str, Tensor], accelerator: Accelerator | None) -> Parts:
    """The sums over processes of vectors by name, exchanged as one."""
    if accelerator is None or accelerator.num_processes == 1 or not parts:
        return dict(parts)
    flat = torch.cat([part.reshape(-1) for part in parts.values()])
    total = accelerator.gather(flat[None]).sum(0)
    split = total.split([part.numel() for part in parts.values()])
    return {name: piece.view(part.shape) for (name, part), piece in zip(parts.items(), split, strict=True)}


def survey(batches: Sequence[Batch], parts_of: Callable[[Batch], Parts]) -> Parts:
    """This process's parts of the step's means, summed over its micro-batches, as training will find them."""
    total: Parts = {}
    with torch.no_grad(), _same_chance():
        for batch in batches:
            for name, part in parts_of(batch).items():
                total[name] = total[name] + part if name in total else part
    return total


@contextmanager
def _same_chance() -> Iterator[None]:
    # Dropout has to draw in training what it drew here.
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        yield
