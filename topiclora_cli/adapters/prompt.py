"""Routing by prompt: which tokens of a forward call are the prompt, and what cache it goes on from.

Only the model's own forward call knows which tokens are padding, and whether this is the prompt or a step of decoding,
so a pair of hooks on the decoder notes it in the model's context. What the routers keep for decoding (prompt_mean.py)
lies on the cache itself, so that it is copied, kept and dropped with it.
"""

import inspect
import warnings
import weakref
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from topiclora_cli.adapters.context import EVERY_MODEL, Kept, PromptCall, RoutingContext, Within
from topiclora_cli.adapters.tuner import contexts_of
from topiclora_cli.errors import TopicLoraError

# By what names forward methods take a cache and outputs return it, the newest first.
_CACHE_NAMES = ("cache", "past_key_values", "cache_params", "state")


def prompt_tokens(mask: Tensor, model: nn.Module | None = None) -> AbstractContextManager[None]:
    """Say which tokens (B, P) are the prompt in this thread's forward calls inside; those after the P-th are not.

    model: of which model that is said, before what is said of none in particular; a model without routed layers has
    nothing to hear it. Without such a block, a call without a cache takes all its tokens for the prompt, and one with a
    filled cache none. Training on answers, decoding without a cache, in speculation or with the prompt in chunks equal
    plain decoding only inside this block.
    """
    contexts = (EVERY_MODEL,) if model is None else contexts_of(model)
    return Within(contexts, "prompt_mask", [mask] * len(contexts))


def default_prompt(mask: Tensor | None, model: nn.Module) -> AbstractContextManager[None]:
    """prompt_tokens(mask, model), unless there is no mask or somebody has said already."""
    if mask is None or any(context.prompt_mask is not None for context in contexts_of(model)):
        return nullcontext()
    return prompt_tokens(mask, model)


def prompt_of_generate(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The prompt mask (B, P) of a call of `generate`: its attention_mask, or what generate itself would infer."""
    if kwargs.get("attention_mask") is not None:
        return kwargs["attention_mask"]  # type: ignore[no-any-return]
    inputs = (*args[:1], *(kwargs.get(name) for name in ("inputs", "input_ids", "inputs_embeds")))
    given = next((tokens for tokens in inputs if isinstance(tokens, Tensor)), None)
    if given is None:
        return None
    config = kwargs.get("generation_config") or model.generation_config
    pad, eos = (kwargs.get(name, getattr(config, name)) for name in ("pad_token_id", "eos_token_id"))
    if given.ndim == 2 and pad is not None and pad not in (eos if isinstance(eos, list) else [eos]):
        return given != pad
    return given.new_ones(given.shape[:2])


class PromptWatch:
    """Keeps a model's context up to date on the forward call under way in each thread, for one adapter."""

    def __init__(self, adapter_name: str, context: RoutingContext) -> None:
        self._adapter_name = adapter_name
        self._context = context
        self._attribute = f"_prompt_means_{adapter_name}"
        self._parameters: tuple[str, ...] = ()
        self._again: weakref.ref[PromptCall] | None = None
        self._warned = False

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_again": None}

    def attach(self, model: nn.Module) -> list[RemovableHandle]:
        """Watch the forward calls of the model's decoder, whoever calls it; remove what is returned to stop."""
        decoder: nn.Module = model.get_decoder() if hasattr(model, "get_decoder") else model  # type: ignore[operator]
        self._parameters = tuple(inspect.signature(type(decoder).forward).parameters)[1:]
        return [
            decoder.register_forward_pre_hook(self._before, with_kwargs=True),
            decoder.register_forward_hook(self._after, with_kwargs=True),
            model.register_forward_hook(self._leave),
        ]

    @property
    def call(self) -> PromptCall:
        """The call under way in this thread, or that which checkpointing runs again."""
        call = self._context.here.calls.get(self._adapter_name)
        if call is None and self._again is not None:
            call = self._again()  # on a model over several GPUs, layers run again in other threads than the output's
        return call or PromptCall()

    def check(self, call: PromptCall) -> None:
        """Once a call, by the first router that pools. Raises TopicLoraError for several examples in a row."""
        if call.checked or torch.compiler.is_compiling():  # a graph cannot branch on positions
            return
        call.checked = True
        if call.restarts is not None and call.restarts.any():
            raise TopicLoraError(
                "Routing by prompt would average over all the examples packed in a row.",
                "Give each example a row of its own, or use granularity: token and a router other than hierarchical.",
            )
        if call.trains_without_mask and not self._warned:
            self._warned = True
            warnings.warn(
                "Routing by prompt trains without a prompt mask, so that it averages over answers too, which decoding "
                "does not. Say which tokens are the prompt with topiclora_cli.adapters.prompt_tokens(mask).",
                stacklevel=2,
            )

    def _before(self, decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = self._given(args, kwargs)
        cache, mask = _cache_of(given), self._context.prompt_mask
        tokens = (given.get(name) for name in ("input_ids", "inputs_embeds"))
        length = next((part.shape[1] for part in tokens if part is not None), None)
        if seen := _length(cache):
            kept: Kept | None = getattr(cache, self._attribute, None) if seen > 0 else None
            if mask is not None and mask.shape[1] > seen > 0:
                self._set(PromptCall(mask[:, seen:], seen, mask[:, :seen], kept, length=length))
            else:
                self._set(PromptCall(None, seen, None, kept, length=length))
            return
        own = _token_mask(given.get("attention_mask"))
        self._set(
            PromptCall(
                own if mask is None else mask,
                kept={},
                restarts=_restarts(given.get("position_ids"), own),
                trains_without_mask=mask is None and decoder.training and torch.is_grad_enabled(),
                length=length,
            )
        )

    def _after(self, decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        call = self._context.here.calls.get(self._adapter_name) or PromptCall()
        fields = dict(output.items()) if isinstance(output, dict) else {}
        parts = output if isinstance(output, tuple) else ()
        caches = (_cache_of(self._given(args, kwargs)), _cache_of(fields), *parts)
        cache = next((part for part in caches if hasattr(part, "get_seq_length")), None)
        if not call.seen and cache is not None:
            setattr(cache, self._attribute, call.kept)
        elif not call.seen:
            call.kept = None
        # Checkpointing runs layers again in backward, when other calls may have followed this one.
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return
        again = call if call.seen else replace(call, kept=None, checked=True)
        tensors = parts or fields.values() or (output,)
        for tensor in tensors:
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                tensor.register_hook(lambda _: self._run_again(again))

    def _leave(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._context.here.calls.pop(self._adapter_name, None)

    def _run_again(self, call: PromptCall) -> None:
        self._set(call)
        self._again = weakref.ref(call)

    def _set(self, call: PromptCall) -> None:
        self._context.here.calls[self._adapter_name] = call

    def _given(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        return {**dict(zip(self._parameters, args, strict=False)), **kwargs} if args else kwargs


def _cache_of(fields: Mapping[str, Any]) -> Any:
    return next((fields[name] for name in _CACHE_NAMES if fields.get(name) is not None), None)


def _length(cache: Any) -> int:
    """Tokens in a cache; -1 where it does not count them, as a tuple or a recurrent state."""
    if cache is None:
        return 0
    try:
        return int(cache.get_seq_length())
    except (AttributeError, ValueError):
        return -1


def _restarts(position_ids: Any, own: Tensor | None) -> Tensor | None:
    """Whether a row's positions, padding aside, fail to rise from a token to the next."""
    if not isinstance(position_ids, Tensor) or position_ids.ndim != 2 or torch.compiler.is_compiling():
        return None
    falls = position_ids[:, 1:] <= position_ids[:, :-1]
    if own is not None:
        real = own.bool()
        falls = falls & real[:, 1:] & real[:, :-1]
    return falls


def _token_mask(attention_mask: Any) -> Tensor | None:
    """Which tokens are not padding, (B, S), from the masks that transformers hands to a model's first forward call."""
    if isinstance(attention_mask, dict):  # one for each kind of attention layer
        attention_mask = next((mask for mask in attention_mask.values() if mask is not None), None)
    if not isinstance(attention_mask, Tensor):
        return None
    if attention_mask.ndim == 2:
        return attention_mask
    # Queries by keys: a token sees itself unless it is padding.
    own = attention_mask[:, 0].diagonal(dim1=-2, dim2=-1)
    return own if own.dtype == torch.bool else own == 0
