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
    """One term beside the language-modelling loss; at weight 0 it is not computed.

    teaches_routers: whether it tells a router where to send what; z, say, only holds its scores down.
    """

    example = "{weight: 0.1}"
    teaches_routers: ClassVar[bool] = False
    weight: float = Field(default=0.0, ge=0)


class KlLoss(LossTerm):
    """The topic prior against routing, over `layers` and the mean of an example's `tokens`.

    The weight rises linearly over the part `warmup` of training, then falls as a cosine to `floor`. smoothing: the
    share of the prior that is spread evenly over the experts. temperature: softens both sides, which still meet where
    routing is the prior. confidence_weighted: each example counts as much as its prior is sure.
    """

    teaches_routers = True
    weight: float = Field(default=0.1, ge=0)
    floor: float = Field(default=0.01, ge=0)
    warmup: float = Field(default=0.05, ge=0, le=1)
    direction: Literal["forward", "reverse", "js"] = "forward"
    layers: Literal["all", "top_half"] = "top_half"
    tokens: Literal["prompt", "all"] = "prompt"
    temperature: float = Field(default=1.0, gt=0)
    smoothing: float = Field(default=0.0, ge=0, le=1)
    confidence_weighted: bool = True


class BalanceLoss(LossTerm):
    """Switch Transformer's.

    counts: whether an expert's load is its share of the active slots (1 where routing is even) or of the tokens (as
    many as are active). scores: what it is multiplied by: the router's dense softmax, the gates, or a threshold
    router's softmax less its threshold.
    """

    teaches_routers = True
    counts: Literal["slots", "tokens"] = "slots"
    scores: Literal["softmax", "gates", "excess"] = "softmax"


class LocalBalanceLoss(LossTerm):
    """LoRAMoE's; between the halves of the experts where `delta` is not 0, which needs priors."""

    teaches_routers = True
    delta: float = Field(default=0.0, gt=-1, lt=1)


class GjsLoss(LossTerm):
    """HMoRA's generalised Jensen-Shannon divergence, of a hierarchical router's token and task part each."""

    teaches_routers = True
    balance: float = Field(default=0.98, ge=0, le=1)
    certainty: float = Field(default=0.5, ge=0, le=1)


class PoissonLoss(LossTerm):
    """GMoE's profile of one token's routing."""

    teaches_routers = True
    rate: float = Field(default=1.5, gt=0)


class NormalLoss(LossTerm):
    """GMoE's profile of use over the step."""

    teaches_routers = True
    width: float = Field(default=0.5, gt=0)


class SparsityLoss(LossTerm):
    """LD-MoLE's, towards `target` active experts."""

    teaches_routers = True
    target: int = Field(default=2, ge=1)


class ContrastLoss(LossTerm):
    """MoELoRA's between experts' outputs on `tokens` tokens of each example, over the layers of `kl.layers`."""

    tokens: int = Field(default=16, ge=2)
    temperature: float = Field(default=0.07, gt=0)


class PriorForcing(_Part):
    """No term, but experts of their own topics before routers have learnt these.

    In training, routers of `kl.layers` choose and weigh experts by p^(1 - eta) pi^eta, pi the prior after
    `kl.smoothing`; eta falls linearly from `start` to 0, where the part `until` of training is done, and counts times
    the prior's confidence where `kl.confidence_weighted`. Losses see p; `kl.temperature` has no part in it.
    """

    example = "{start: 0.5}"
    start: float = Field(default=0.0, ge=0, le=1)
    until: float = Field(default=0.5, gt=0, le=1)


class LossSection(Section):
    """Stage 3's auxiliary terms beside the language-modelling loss.

    Each is a mean over the tokens or examples of a whole optimizer step, or a function of such means, however the step
    is cut into micro-batches and processes. With several micro-batches, functions of means (balance, local_balance,
    normal, gjs, base_balance) cost a forward pass more, which finds the means.

    z: ST-MoE's on large logits. anchor: trained topic keys to their start. orthogonal: SAMoRA's on A and B. centre:
    SAMoRA's between the keys of a cosine router and the experts, with shared A. base_balance: transformers' for a
    sparse base model's own routers, top_k where they are even; they are frozen, so it moves the adapters before them.

    reduce_routers: how the values of a term at several routers (of orthogonal and centre, at several layers) become
    one: their mean, their sum, or with `pool` the value for all routers' tokens together. It says nothing of kl,
    contrast and anchor, which are means, nor of base_balance, which pools.
    """

    kl: KlLoss = KlLoss()
    balance: BalanceLoss = BalanceLoss()
    local_balance: LocalBalanceLoss = LocalBalanceLoss()
    z: LossTerm = LossTerm()
    gjs: GjsLoss = GjsLoss()
    poisson: PoissonLoss = PoissonLoss()
    normal: NormalLoss = NormalLoss()
    sparsity: SparsityLoss = SparsityLoss()
    contrast: ContrastLoss = ContrastLoss()
    anchor: LossTerm = LossTerm()
    orthogonal: LossTerm = LossTerm()
    centre: LossTerm = LossTerm()
    base_balance: LossTerm = LossTerm()
    prior_forcing: PriorForcing = PriorForcing()
    reduce_routers: Literal["mean", "sum", "pool"] = "mean"

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
