"""Gates fitted so that the mixture under them answers as the routed model does."""

import math
from collections.abc import Mapping
from itertools import cycle, islice

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor

from topiclora_cli.adapters.fixed import fixed_gates
from topiclora_cli.merging.gap import Reference, answer_log_probabilities
from topiclora_cli.runs.progress import Progress

RATE = 0.02  # of a gate, which starts at about one by the number of experts


def learn_gates(
    model: PeftModel,
    adapter: str,
    start: Mapping[str, Tensor],
    reference: Reference,
    *,
    steps: int,
    progress: Progress,
) -> dict[str, Tensor]:
    """Minimise KL(routed || fixed) over answers by Adam, a batch a step: owner of a router -> gates.

    start: the gates to begin with. They need not sum to one afterwards: an expert that few tokens meet with a gate
    near one may serve all of them best with one that no average gives.
    """
    gates = {name: values.clone().float().requires_grad_() for name, values in start.items()}
    optimizer = torch.optim.Adam(gates.values(), lr=RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / steps)))
    with progress.track("steps, learned gates", steps) as advance, fixed_gates(model, adapter, gates):
        for number in islice(cycle(range(len(reference.batches))), steps):
            q = answer_log_probabilities(model, reference.batches[number], bfloat16=reference.bfloat16)
            p = reference.answers(number).to(q.device)
            optimizer.zero_grad()
            F.kl_div(q, p, reduction="batchmean", log_target=True).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            advance(1, "")
    return {name: values.detach() for name, values in gates.items()}
