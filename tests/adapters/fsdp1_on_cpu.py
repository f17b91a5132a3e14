"""A step under FSDP1 on two processes, wrapped by peft's own policy, for the tests: `torchrun fsdp1_on_cpu.py`.

Prints, as JSON, loss and gradient norm of one process alone and of both together, with use_orig_params and without.
"""

import json

import torch
import torch.distributed as dist
from peft import get_peft_model
from peft.utils.other import fsdp_auto_wrap_policy
from torch.distributed.fsdp import FullyShardedDataParallel
from transformers import LlamaConfig, LlamaForCausalLM

from tests.adapters.helpers import TOKENS
from tests.conftest import SMALL, shaken
from topiclora_cli.adapters import TopicLoraConfig


def adapted(router):
    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(**SMALL))
    return shaken(get_peft_model(base, TopicLoraConfig(r=2, num_experts=4, router=router, target_modules="all-linear")))


def step(model):
    loss = model(input_ids=TOKENS, labels=TOKENS).loss
    loss.backward()
    squares = sum(p.grad.square().sum() for p in model.parameters() if p.grad is not None)
    return loss.item(), torch.as_tensor(squares)


dist.init_process_group("gloo")
for router in ("topic", "linear"):
    loss, squares = step(adapted(router))
    seen = [[loss, squares.sqrt().item()]]
    for use_orig_params in (False, True):
        model = adapted(router)
        sharded = FullyShardedDataParallel(
            model,
            auto_wrap_policy=fsdp_auto_wrap_policy(model),
            use_orig_params=use_orig_params,
            device_id=torch.device("cpu"),
        )
        loss, squares = step(sharded)
        dist.all_reduce(squares)
        seen.append([loss, squares.sqrt().item()])
    if dist.get_rank() == 0:
        print(json.dumps(seen), flush=True)
dist.destroy_process_group()
