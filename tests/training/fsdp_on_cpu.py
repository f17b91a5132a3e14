"""The command line under FSDP2 on CPU, for the tests: `torchrun fsdp_on_cpu.py train ...`.

accelerate 1.15 shards where its processes run on GPUs (`AcceleratorState` asks for MULTI_GPU and the like) and ignores
FSDP on CPU without a word. torch has no such limit, so what accelerate believes of the machine is changed here.
"""

import os
import sys

os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule
from transformers import Trainer

from topiclora_cli.cli.app import main

torch.distributed.init_process_group("gloo")
PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
run_epoch = Trainer._run_epoch


def sharded_epoch(self, model, **arguments):
    assert isinstance(model, FSDPModule)
    return run_epoch(self, model=model, **arguments)


Trainer._run_epoch = sharded_epoch
main(sys.argv[1:])
