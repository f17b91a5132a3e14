"""The recipe's section on the auxiliary losses of training: one mapping per term, and how terms are put together.

Earlier versions had one flat key for each of these settings; spelling.py reads those.
"""

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field, model_validator

from topiclora_cli.recipe.section import Section


class _Part(Section):
    """A mapping within the section."""

    example: ClassVar[str]

    @model_validator(mode="before")
    @classmethod
    def _mapping(cls, value: Any) -> Any:
        if not isinstance(value, dict | BaseModel):
            raise ValueError(f"not a mapping, such as {cls.example}")
        return value


class LossTerm(_Part):
    """One term beside the language-modelling loss.

    teaches_routers: whether it tells a router where to send what; z, say, only holds its scores down.
    """

    example = "{weight: 0.1}"
    teaches_routers: ClassVar[bool] = False
    weight: float = Field(default=0.0, ge=0)
    """Weight of the term; at 0 it is not computed."""


class KlLoss(LossTerm):
    """The topic prior against routing, over `layers` and the mean of an example's `tokens`."""

    teaches_routers = True
    weight: float = Field(default=0.1, ge=0)
    """Peak weight of the term, reached after `warmup`; at 0 it is not computed."""
    floor: float = Field(default=0.01, ge=0)
    """Weight at the end of training, to which it falls as a cosine."""
    warmup: float = Field(default=0.05, ge=0, le=1)
    """Part of training in which the weight rises linearly."""
    direction: Literal["forward", "reverse", "js"] = "forward"
    """KL(prior || routing), KL(routing || prior), or the mean of both to their midpoint."""
    label: Literal["soft", "hard"] = "soft"
    """The prior as it is, or its likeliest expert alone (`hard`)."""
    layers: Literal["all", "top_half"] = "top_half"
    """The layers whose routers it is taken over."""
    tokens: Literal["prompt", "all"] = "prompt"
    """The tokens whose mean routing it is taken over."""
    temperature: float = Field(default=1.0, gt=0)
    """Softens both sides, which still meet where routing is the prior."""
    smoothing: float = Field(default=0.0, ge=0, le=1)
    """The share of the prior that is spread evenly over the experts."""
    confidence_weighted: bool = True
    """Count each example as much as its prior is sure."""


class BalanceLoss(LossTerm):
    """Switch Transformer's."""

    teaches_routers = True
    counts: Literal["slots", "tokens"] = "slots"
    """Whether an expert's load is its share of the active slots (1 where routing is even) or of the tokens (as many as
    are active)."""
    scores: Literal["softmax", "gates", "excess"] = "softmax"
    """What the load is multiplied by: the router's dense softmax, the gates, or a threshold router's softmax less its
    threshold."""


class LocalBalanceLoss(LossTerm):
    """LoRAMoE's."""

    teaches_routers = True
    delta: float = Field(default=0.0, gt=-1, lt=1)
    """How much more an example counts in the half of the experts that its prior prefers than in the other, of -1 to 1;
    0 needs no priors."""


class GjsLoss(LossTerm):
    """HMoRA's generalised Jensen-Shannon divergence, of a hierarchical router's token and task part each."""

    teaches_routers = True
    balance: float = Field(default=0.98, ge=0, le=1)
    """Part of ln E up to which even use of the experts counts."""
    certainty: float = Field(default=0.5, ge=0, le=1)
    """Part of ln E down to which a token's certainty counts."""


class PoissonLoss(LossTerm):
    """GMoE's profile of one token's routing."""

    teaches_routers = True
    rate: float = Field(default=1.5, gt=0)
    """Rate of the Poisson profile: the higher, the more experts share a token."""


class NormalLoss(LossTerm):
    """GMoE's profile of use over the step."""

    teaches_routers = True
    width: float = Field(default=0.5, gt=0)
    """Deviation of the bell of use, as a part of the number of experts."""


class SparsityLoss(LossTerm):
    """LD-MoLE's, towards `target` active experts."""

    teaches_routers = True
    target: int = Field(default=2, ge=1)
    """Experts that may be active for a token at no cost."""


class ContrastLoss(LossTerm):
    """MoELoRA's between experts' outputs on `tokens` tokens of each example, over the layers of `kl.layers`."""

    tokens: int = Field(default=16, ge=2)
    """Tokens of each example whose outputs are compared."""
    temperature: float = Field(default=0.07, gt=0)
    """Divides the outputs' cosines; the lower, the more the closest pairs count."""


class PriorForcing(_Part):
    """No term, but experts of their own topics before routers have learnt these.

    In training, routers of `kl.layers` choose and weigh experts by p^(1 - eta) pi^eta, pi the prior after
    `kl.smoothing`; eta falls linearly from `start` to 0, where the part `until` of training is done, and counts times
    the prior's confidence where `kl.confidence_weighted`. Losses see p; `kl.temperature` has no part in it.
    """

    example = "{start: 0.5}"
    start: float = Field(default=0.0, ge=0, le=1)
    """The prior's part in the choice at the first step; 0 forces nothing."""
    until: float = Field(default=0.5, gt=0, le=1)
    """Part of training after which routers choose alone."""


class LossSection(Section):
    """Stage 3's auxiliary terms beside the language-modelling loss.

    Each is a mean over the tokens or examples of a whole optimizer step, or a function of such means, however the step
    is cut into micro-batches and processes. With several micro-batches, functions of means (balance, local_balance,
    normal, gjs, base_balance) cost a forward pass more, which finds the means.
    """

    kl: KlLoss = KlLoss()
    """The topic prior against routing: TopicLoRA's own term."""
    balance: BalanceLoss = BalanceLoss()
    """Switch Transformer's balance of load."""
    local_balance: LocalBalanceLoss = LocalBalanceLoss()
    """LoRAMoE's balance, between the halves of the experts where `delta` is not 0, which needs priors."""
    z: LossTerm = LossTerm()
    """ST-MoE's loss on large logits of routers."""
    gjs: GjsLoss = GjsLoss()
    """HMoRA's generalised Jensen-Shannon divergence, of a hierarchical router's token and task part each."""
    poisson: PoissonLoss = PoissonLoss()
    """GMoE's profile of one token's routing."""
    normal: NormalLoss = NormalLoss()
    """GMoE's profile of use over the step."""
    sparsity: SparsityLoss = SparsityLoss()
    """LD-MoLE's, towards `target` active experts."""
    contrast: ContrastLoss = ContrastLoss()
    """MoELoRA's between experts' outputs on `tokens` tokens of each example, over the layers of `kl.layers`."""
    anchor: LossTerm = LossTerm()
    """Draws trained topic keys to their start."""
    orthogonal: LossTerm = LossTerm()
    """SAMoRA's on the matrices A and B."""
    centre: LossTerm = LossTerm()
    """SAMoRA's between the keys of a cosine router and the experts, with shared A."""
    base_balance: LossTerm = LossTerm()
    """transformers' balance for a sparse base model's own routers, top_k where they are even; they are frozen, so it
    moves the adapters before them."""
    prior_forcing: PriorForcing = PriorForcing()
    """No term: experts of their own topics before routers have learnt these."""
    reduce_routers: Literal["mean", "sum", "pool"] = "mean"
    """How the values of a term at several routers (of orthogonal and centre, at several layers) become one: their mean,
    their sum, or with `pool` the value for all routers' tokens together. It says nothing of kl, contrast and anchor,
    which are means, nor of base_balance, which pools."""

    @property
    def terms(self) -> dict[str, LossTerm]:
        """All terms by name, of whatever weight."""
        return {name: value for name, value in self if isinstance(value, LossTerm)}


def _keys() -> tuple[str, ...]:
    keys: list[str] = []
    for name, field in LossSection.model_fields.items():
        within: Any = field.annotation
        is_part = isinstance(within, type) and issubclass(within, Section)
        keys += [f"{name}.{key}" for key in within.model_fields] if is_part else [name]
    return tuple(keys)


# Every setting of the section by its dotted key.
LOSS_KEYS = _keys()
