"""Where a model's linear layers stand, by the tree of its modules: in attention or feed-forward, in the language part.

Names alone do not tell. OPT has its feed-forward layers bare in the decoder layer, Granite calls the block
`block_sparse_moe`, and every block of Nemotron-H is a `mixer`; what tells is the class that the block is of.
"""

import inspect
import re
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

# Whatever mixes tokens counts as attention: state-space, convolutional and recurrent blocks, too.
_MIXES_TOKENS = re.compile("attention|attn|mixer|mamba|ssm|delta|conv|recurrent|retention|lstm|timemix")
_FEED_FORWARD = re.compile("mlp|ffn|feedforward|feed_forward|moe|expert|channelmix")
_TRIED: "WeakKeyDictionary[nn.Module, frozenset[str]]" = WeakKeyDictionary()

Part = Literal["attention", "feed-forward"]


def is_linear(module: nn.Module) -> bool:
    """Whether the module multiplies by a matrix: nn.Linear, its quantised kin, and transformers' Conv1D."""
    return isinstance(module, (nn.Linear, Conv1D))


def part_of(model: nn.Module, name: str) -> Part | None:
    """Whether the linear layer of that name mixes tokens or is of a feed-forward block; None outside of both.

    The block is the innermost of the layer's parents that says so by its class, or else by its own name. A layer that
    stands bare in the decoder layer is of its feed-forward block where it widens the hidden size or undoes that.
    """
    parts = name.split(".")
    number = next((place for place, part in enumerate(parts) if part.isdecimal()), None)
    if number is None:
        return None
    for end in range(len(parts) - 1, number + 1, -1):
        block = model.get_submodule(".".join(parts[:end]))
        for text in (_kind(model, block), parts[end - 1].lower()):
            if _MIXES_TOKENS.search(text):
                return "attention"
            if _FEED_FORWARD.search(text):
                return "feed-forward"
    bare = number == len(parts) - 2
    return "feed-forward" if bare and _widens(model, model.get_submodule(name)) else None


def language_part(model: nn.Module) -> str:
    """How the names of a composite model's language part begin, with a dot; empty where the model is nothing else."""
    config: Any = getattr(model, "config", None)
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    if text is config:
        return ""
    parts = (
        name
        for name, module in model.named_modules()
        if name and isinstance(module, PreTrainedModel) and type(module.config) is type(text)
    )
    return next((f"{name}." for name in parts), "")


def never_called(model: nn.Module) -> frozenset[str]:
    """Linear layers that a forward pass never calls, so that an adapter in their place would do nothing.

    Tried with two tokens, once for each model; a model that cannot be tried so has none. Experts do not count, of which
    any token leaves out most.
    """
    if model not in _TRIED:
        _TRIED[model] = _try(model)
    return _TRIED[model]


def run_two_tokens(model: nn.Module) -> bool:
    """Whether a forward pass of two tokens without gradients goes through; every module keeps its mode."""
    training = [module for module in model.modules() if module.training]
    try:
        tokens = torch.zeros(1, 2, dtype=torch.long, device=next(model.parameters()).device)
        with torch.no_grad():
            model.eval()(input_ids=tokens, use_cache=False)
    except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError, LookupError, StopIteration):
        return False
    finally:
        for module in training:
            module.training = True
    return True


def handed_to_kernels(model: nn.Module) -> set[str]:
    """Linear layers of state-space blocks whose weights fused kernels read, past anything put around the layer."""
    names = set()
    for name, block in model.named_modules():
        if {"A_log", "D"} <= {key for key, _ in block.named_parameters(recurse=False)}:
            read = set(re.findall(r"self\.(\w+)\.weight\b(?!\.)", inspect.getsource(type(block))))
            names |= {f"{name}.{key}" for key, child in block.named_children() if key in read and is_linear(child)}
    return names


def _kind(model: nn.Module, block: nn.Module) -> str:
    """A block's class without the model's own name, which may say of a whole family what is true of some blocks."""
    family = re.sub(r"(For\w+|LMHeadModel|Model)$", "", type(model).__name__)
    return type(block).__name__.removeprefix(family).lower()


def _widens(model: nn.Module, linear: Any) -> bool:
    config: Any = getattr(model, "config", None)
    hidden = getattr(config.get_text_config() if hasattr(config, "get_text_config") else config, "hidden_size", None)
    sizes = sorted(linear.weight.shape)
    return hidden is not None and sizes[0] == hidden < sizes[1]


def _try(model: nn.Module) -> frozenset[str]:
    linears = {name: module for name, module in model.named_modules() if is_linear(module)}
    called: set[nn.Module] = set()
    hooks = [module.register_forward_hook(lambda module, *_: called.add(module)) for module in linears.values()]
    try:
        if not run_two_tokens(model):
            return frozenset()
    finally:
        for hook in hooks:
            hook.remove()
    silent = (name for name, module in linears.items() if module not in called)
    return frozenset(name for name in silent if "experts" not in name.split("."))
