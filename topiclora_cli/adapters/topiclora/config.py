"""Configuration of the mixture-of-LoRA method, in peft's terms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from topiclora_cli.adapters.card import Card
from topiclora_cli.adapters.keys import check_anchors
from topiclora_cli.adapters.routed_config import RoutedConfig
from topiclora_cli.adapters.routers import ROUTERS, VERSION
from topiclora_cli.adapters.shared import SHARED_GATES, check_joined, check_shared
from topiclora_cli.adapters.starts import STARTS
from topiclora_cli.adapters.topiclora.scope import SCOPES, USUAL_FAMILIES
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.scaling import GATE_WEIGHTS, gates_at_start

_SHOWN = (
    *("num_experts", "experts_per_layer", "shared_experts", "r", "ranks_per_layer", "top_k", "top_p", "gate_weights"),
    *("lora_alpha", "scaling", "shared_a", "router", "router_scope", "granularity", "mixing", "init", "plain_modules"),
    *("target_modules", "exclude_modules", "modules_to_save", "graph_sha256"),
)


@dataclass
class TopicLoraConfig(RoutedConfig):
    """A mixture of LoRA experts on linear layers.

    Without `anchors` the topic router's keys start as a simplex, so this is usable as a plain peft method. Routing by
    prompt (granularity: prompt, router: hierarchical) averages over the prompt, so train inside
    `prompt_tokens(mask)`, one example in a row; its mean lies on the cache, a transformers one. Raises
    TopicLoraError for sizes that do not fit together. Source: reconstruction of TopicLoRA (AAAI 2026); with other
    routers, scopes and losses it is most of its baselines (`topiclora methods`).
    """

    method: ClassVar[str] = "topiclora"
    choices: ClassVar[Mapping[str, Sequence[str]]] = {
        "router": tuple(ROUTERS),
        "router_scope": SCOPES,
        "granularity": ("token", "prompt"),
        "mixing": ("linear", "ffn"),
        "gate_weights": GATE_WEIGHTS,
        "shared_gate": SHARED_GATES,
        "init": STARTS,
        "kernel": ("auto", "plain", "dense", "sparse"),
    }

    num_experts: int = field(default=8, metadata={"help": "Number of LoRA experts, E."})
    shared_experts: int = field(
        default=0, metadata={"help": "Experts beside those that every token passes through, S (arXiv 2401.06066)."}
    )
    shared_gate: str = field(
        default="one",
        metadata={"help": "Their gate: 'one', or 'softmax': one softmax with the chosen experts (arXiv 2510.00570)."},
    )
    top_k: int | None = field(default=None, metadata={"help": "Active experts per token; None mixes all."})
    top_p: float | None = field(
        default=None, metadata={"help": "Instead of top_k: the fewest experts that hold this much probability."}
    )
    gate_weights: str = field(
        default="renormalised",
        metadata={
            "help": "Weights of the top_k experts: made to sum to 1 ('renormalised'; a single one keeps its "
            "probability), their 'probability', or 'constant', 1 / top_k with the gradient of the probability."
        },
    )
    use_rslora: bool = field(default=False, metadata={"help": "The older name of scaling: 'sqrt'."})
    plain_modules: list[str] | None = field(
        default=None, metadata={"help": "Those of the targets that carry a plain LoRA: one expert, no router."}
    )
    experts_per_layer: list[int] | None = field(
        default=None, metadata={"help": "Number of experts of each decoder layer, first to last (MoLA)."}
    )
    ranks_per_layer: list[int] | None = field(default=None, metadata={"help": "Rank of each decoder layer's experts."})
    alphas_per_layer: list[float] | None = field(
        default=None, metadata={"help": "lora_alpha of each decoder layer, where ranks differ and scales should not."}
    )
    shared_a: bool = field(default=False, metadata={"help": "One A for all experts (HydraLoRA, arXiv 2404.19245)."})
    mixing: str = field(
        default="linear",
        metadata={"help": "'ffn' mixes after a feed-forward block's non-linearity (MixLoRA, arXiv 2404.15159)."},
    )
    router: str = field(default="topic", metadata={"help": f"One of: {', '.join(ROUTERS)}."})
    router_scope: str = field(default="linear", metadata={"help": f"Who shares a router: {', '.join(SCOPES)}."})
    granularity: str = field(
        default="token", metadata={"help": "'token', or 'prompt': scores averaged over the prompt so far."}
    )
    router_dropout: float = field(default=0.0, metadata={"help": "Dropout on what the router reads."})
    router_version: int | None = field(
        default=None,
        metadata={
            "help": "Form of the hierarchical and sparsegen routers; 1 for adapters that were saved without this key."
        },
    )
    router_families: list[list[str]] | None = field(
        default=None,
        metadata={"help": "What reads the same tensor, for router_scope: group; found by a trial, not to be set."},
    )
    router_width: int = field(default=256, metadata={"help": "Hidden units of the graph and sparsegen routers."})
    key_width: int | None = field(
        default=None,
        metadata={"help": "Width of the topic router's keys where experts came or went after training; None: E."},
    )
    first_experts: int | None = field(
        default=None,
        metadata={"help": "Number of experts that its scores are scaled by where some came or went; None: E."},
    )
    init: str = field(
        default="kaiming",
        metadata={
            "help": "Start of the experts: 'kaiming', 'orthogonal' (each reads a subspace of its own), or 'svd' "
            "(segments of the base weight's spectrum, arXiv 2502.16894)."
        },
    )
    train_experts: bool = field(default=True, metadata={"help": "False trains the routers alone."})
    kernel: str = field(
        default="auto", metadata={"help": "'plain' autograd, fused 'dense', 'sparse' (sorted), or the fastest."}
    )

    def __post_init__(self) -> None:
        if self.router_version is None:
            # A file says its peft type, a caller does not.
            self.router_version = VERSION if self.peft_type is None else 1
        if self.router_scope == "group" and self.router_families is None and self.peft_type is not None:
            self.router_families = [list(family) for family in USUAL_FAMILIES]  # as in files without this key
        super().__post_init__()
        self.use_rslora = self.scaling == "sqrt"
        self._check_combinations()
        self._check_sizes()

    @property
    def gates_at_start(self) -> float:
        return gates_at_start(
            self.num_experts,
            top_k=self.top_k,
            top_p=self.top_p,
            gate_weights=self.gate_weights,
            shared_experts=self.shared_experts,
            shared_gate=self.shared_gate,
        )

    @property
    def all_experts(self) -> int:
        """E + S: the routed experts first, the shared ones behind them."""
        return self.num_experts + self.shared_experts

    @property
    def pools_prompt(self) -> bool:
        """Whether some routing decision looks at more than its own token."""
        return self.granularity == "prompt" or self.router == "hierarchical"

    def at(self, name: str, layer: int | None) -> "TopicLoraConfig":
        """The configuration of one adapted module: its layer's numbers, or a plain LoRA's."""
        changes: dict[str, Any] = dict.fromkeys(("experts_per_layer", "ranks_per_layer", "alphas_per_layer"))
        if layer is not None and self.experts_per_layer is not None:
            changes["num_experts"] = self.experts_per_layer[layer]
        if layer is not None and self.ranks_per_layer is not None:
            changes["r"] = self.ranks_per_layer[layer]
        if layer is not None and self.alphas_per_layer is not None:
            changes["lora_alpha"] = self.alphas_per_layer[layer]
        if any(name == plain or name.endswith("." + plain) for plain in self.plain_modules or ()):
            changes |= {"num_experts": 1, "top_k": None, "top_p": None, "router": "uniform", "router_scope": "linear"}
            changes |= {"anchors": None, "granularity": "token", "mixing": "linear"}
            changes |= {"expert_dropout": "shared", "shared_experts": 0, "shared_gate": "one"}
            changes |= {"gate_weights": "renormalised", "key_width": None, "first_experts": None}
        return replace(self, **changes)

    def card(self) -> Card:
        """What the model card says of such an adapter."""
        experts = "-".join(map(str, dict.fromkeys(self.experts_per_layer or [self.num_experts])))
        rank = "-".join(map(str, dict.fromkeys(self.ranks_per_layer or [self.r])))
        all_or_own = "as many as it chooses" if ROUTERS[self.router].chooses_itself else "all mixed"
        choice = f"top-{self.top_k}" if self.top_k else f"top-p {self.top_p}" if self.top_p else all_or_own
        when = "once per prompt" if self.granularity == "prompt" else "for every token"
        return Card(
            title="Mixture of LoRA experts",
            summary=f"A mixture of {experts} LoRA experts of rank {rank}{_beside(self)} with a `{self.router}` router "
            f"({choice}). Which experts act is decided {when} by the model itself, so the adapter cannot be merged "
            "into the base weights without fixing the gates.",
            serving="Tools that know only plain LoRA can serve an export with fixed gates (`topiclora merge`).",
            shown=(*_SHOWN, "shared_gate") if self.shared_experts else _SHOWN,
        )

    def _check_combinations(self) -> None:
        if self.mixing == "ffn" and self.router_scope not in ("block", "layer"):
            raise TopicLoraError("mixing: ffn needs one decision for a whole block.", "Set router_scope: block.")
        if self.shared_gate == "softmax":
            check_joined(self.router, self.shared_experts, joins=ROUTERS[self.router].joins_shared, mixing=self.mixing)
            if self.gate_weights != "renormalised":
                raise TopicLoraError(
                    f"gate_weights: {self.gate_weights} means nothing to shared_gate: softmax, which makes all gates.",
                    "Leave one of them out.",
                )
        if self.mixing == "ffn" and self.scaling == "total" and self.gates_at_start < 1 + self.shared_experts:
            raise TopicLoraError(
                "scaling: total has no scale for mixing: ffn where gates do not sum to 1, which act on a block's last "
                "layer alone.",
                "Use scaling: expert, or top_k of at least 2 with gate_weights: renormalised.",
            )
        if self.router == "cosine" and not self.shared_a:
            raise TopicLoraError("The cosine router reads the rank space of a shared A.", "Set shared_a: true.")
        if self.init == "svd" and (self.shared_a or self.mixing == "ffn"):
            other = "shared_a: true has one A for all experts" if self.shared_a else "mixing: ffn gives them no gates"
            raise TopicLoraError(
                f"init: svd starts each expert's A apart, under gates whose mean is known; {other}.",
                "Use init: orthogonal, or leave out shared_a." if self.shared_a else "Use init: orthogonal.",
            )
        if isinstance(self.plain_modules, str):
            raise TopicLoraError(
                f"plain_modules takes a list of names, not {self.plain_modules!r}.", "Name modules: [q_proj, v_proj]."
            )
        if ROUTERS[self.router].chooses_itself and (self.top_k is not None or self.top_p is not None):
            key = "top_p" if self.top_k is None else "top_k"
            raise TopicLoraError(
                f"{key} means nothing to the {self.router} router, which chooses how many experts take part.",
                f"Set {key} to null.",
            )
        if self.top_k is None and self.gate_weights != "renormalised":
            raise TopicLoraError(
                f"gate_weights: {self.gate_weights} says how the top_k experts are weighted, and there is no top_k.",
                "Set top_k, or leave gate_weights out.",
            )
        if self.top_k is not None and self.top_p is not None:
            raise TopicLoraError("top_k and top_p exclude one another.", "Set one of them to null.")
        if (
            isinstance(self.target_modules, str)
            and self.layers_to_transform is not None
            and (self.target_modules != "all-linear")
        ):
            raise TopicLoraError("layers_to_transform cannot be combined with a regular expression in target_modules.")

    def _check_sizes(self) -> None:
        ranks, experts = self.ranks_per_layer or [self.r], self.experts_per_layer or [self.num_experts]
        for key, values in (("r", ranks), ("num_experts", experts), ("router_width", [self.router_width])):
            if min(values) < 1:
                raise TopicLoraError(f"{key} ({min(values)}) must be at least 1.")
        check_shared(self.shared_experts, min(experts))
        if self.top_k is not None and not 1 <= self.top_k <= min(experts):
            raise TopicLoraError(f"top_k ({self.top_k}) must lie between 1 and the number of experts ({min(experts)}).")
        if self.router_version not in range(1, VERSION + 1):
            raise TopicLoraError(
                f"router_version {self.router_version} is newer than this topiclora knows.", "Update topiclora."
            )
        if self.key_width is not None and self.key_width < max(experts):
            raise TopicLoraError(f"key_width ({self.key_width}) must be at least num_experts ({max(experts)}).")
        if not 0 <= self.router_dropout < 1:
            raise TopicLoraError(f"router_dropout ({self.router_dropout}) must lie between 0 and 1.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise TopicLoraError(f"top_p ({self.top_p}) must lie above 0 and at most at 1.")
        if self.anchors is not None:
            check_anchors(self.anchors, experts)


def _beside(config: TopicLoraConfig) -> str:
    if not config.shared_experts:
        return ""
    joined = " in one softmax with them" if config.shared_gate == "softmax" else ""
    return f" and {config.shared_experts} more for every token{joined},"
