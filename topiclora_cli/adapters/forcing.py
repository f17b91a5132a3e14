"""Prior forcing: while it trains, a router's probabilities are drawn towards the topic prior of each token's example.

    p' = p^(1 - eta) pi^eta / Z

is a step between logarithms, so it is the logits that move, before experts are chosen and weighted. The losses still
see the router's own. Experts come to specialise by topic before the routers have learnt to; inference knows no prior.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from topiclora_cli.adapters.context import ForcedPrior, RoutingContext, Within
from topiclora_cli.adapters.tuner import contexts_of, routers_of
from topiclora_cli.errors import TopicLoraError

# The share of a prior that is spread over all experts: one that it leaves out must stay within reach of the router.
SMOOTHING = 1e-3
# Where transformers keeps how a module is checkpointed.
_CHECKPOINT = "_gradient_checkpointing_func"


@contextmanager
def forced_routing(
    model: nn.Module, prior: Tensor, eta: Tensor, layers: Collection[str] | None = None
) -> Iterator[None]:
    """Draw the routers of `model` towards a prior in this thread's forward calls inside, and where checkpointing runs
    their layers again.

    prior (R, W, E) and eta (R, W) in [0, 1] of each token; layers: the names of those whose routers it is about, of all
    of them if None. Routers with a rule of their own for how many experts take part are left alone. Raises
    TopicLoraError where a router has another number of experts than the prior, and for reentrant checkpointing, which
    would run layers again without the prior.
    """
    wanted = [(name, router) for name, router in choosing_routers(model) if layers is None or name in layers]
    for name, router in wanted:
        refuse_other_experts(prior.shape[-1], name, router.settings.num_experts)
    contexts = contexts_of(model)
    _remember_in_checkpoints(model, contexts)
    smoothed = (1 - SMOOTHING) * prior + SMOOTHING / prior.shape[-1]
    forced = ForcedPrior(frozenset(router for _, router in wanted), smoothed.log(), eta.unsqueeze(-1))
    with Within(contexts, "prior", [forced] * len(contexts)):
        yield


def choosing_routers(model: nn.Module) -> list[tuple[str, Any]]:
    """The routers of active adapters that a prior can be put beside, each with the name of the layer that owns it."""
    return [(name, router) for name, router in routers_of(model) if getattr(router, "takes_prior", False)]


def refuse_other_experts(experts: int, name: str, own: int) -> None:
    """Raises TopicLoraError where a prior is over another number of experts than the router of a layer has."""
    if experts != own:
        raise TopicLoraError(
            f"The prior is over {experts} experts, but the router of {name} has {own}.",
            f"Set adapter.num_experts to {experts}, or rebuild the graph for {own} experts.",
        )


def drawn_to_prior(router: nn.Module, context: RoutingContext, logits: Tensor) -> Tensor:
    """What a router's experts are chosen by: its logits (..., E), or where it is forced those of p^(1 - eta) pi^eta.

    Their logsumexp stays: shared experts in one softmax with them keep their part of it. Raises TopicLoraError where
    the router reads other tokens than priors are known of.
    """
    forced = context.here.prior
    if forced is None or router not in forced.routers:
        return logits
    log_prior, eta = (_as_read(values, logits, router) for values in (forced.log_prior, forced.eta))
    drawn = torch.lerp(logits, log_prior, eta).log_softmax(-1)
    return drawn + logits.logsumexp(-1, keepdim=True)


def _as_read(values: Tensor, logits: Tensor, router: Any) -> Tensor:
    """Values (R, W, n) of the tokens in the shape in which a router reads them: some layers flatten rows."""
    shape = logits.shape[:-1]
    if values.shape[:-1] != shape:
        if values.shape[:-1].numel() != shape.numel():
            raise TopicLoraError(
                f"{router.label} reads {tuple(shape)} rows, and the prior is of {tuple(values.shape[:-1])} tokens.",
                "Leave that layer out of target_modules, or train without loss.prior_forcing.",
            )
        values = values.reshape(*shape, -1)
    return values.to(logits)


def _remember_in_checkpoints(model: nn.Module, contexts: tuple[RoutingContext, ...]) -> None:
    """Have the model's checkpointed layers meet, when they run again, the prior that they ran with.

    They run again in the backward pass: outside of the block, and on a GPU in a thread of its own.
    """
    for module in model.modules():
        checkpoint = getattr(module, _CHECKPOINT, None)
        if not isinstance(checkpoint, partial):
            continue
        if checkpoint.func is _remembering:
            known, checkpoint = checkpoint.args
            if known == contexts:
                continue
        if checkpoint.keywords.get("use_reentrant", True) and getattr(module, "gradient_checkpointing", False):
            raise TopicLoraError(
                "Gradient checkpointing with use_reentrant=True runs layers again without their prior.",
                "Use train.gradient_checkpointing, or pass use_reentrant=False.",
            )
        setattr(module, _CHECKPOINT, partial(_remembering, contexts, checkpoint))


def _remembering(
    contexts: tuple[RoutingContext, ...], checkpoint: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    if torch.compiler.is_compiling():  # a graph keeps the prior itself, and takes no such contexts
        return checkpoint(*args, **kwargs)
    return checkpoint(*args, context_fn=partial(_again, contexts), **kwargs)


def _again(contexts: tuple[RoutingContext, ...]) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), Within(contexts, "prior", [context.here.prior for context in contexts])
