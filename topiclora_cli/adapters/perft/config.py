"""Configuration of PERFT, in peft's terms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from topiclora_cli.adapters.card import Card
from topiclora_cli.adapters.keys import check_anchors
from topiclora_cli.adapters.routed_config import RoutedConfig
from topiclora_cli.adapters.shared import check_shared
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.scaling import perft_gates_at_start

_VARIANTS = ("routed", "embedded", "dense", "shared")
_SHOWN = (
    (_VARIANTS, ("variant", "adapter_type", "r", "lora_alpha", "scaling")),
    (("routed", "dense"), ("num_adapters",)),
    (("routed",), ("shared_adapters", "top_k", "renormalize", "router", "router_weight_source", "graph_sha256")),
    (_VARIANTS, ("target_modules", "exclude_modules", "modules_to_save")),
)


@dataclass
class PerftConfig(RoutedConfig):
    """Adapters beside the experts of a sparse mixture-of-experts model (PERFT, arXiv 2508.02587).

    Each adapter is a bottleneck d -> r -> d around a whole MoE block. `routed`: a router of their own chooses top_k of
    num_adapters. `embedded`: one adapter per pretrained expert, chosen and weighted by the pretrained router. `dense`:
    the plain sum of num_adapters. `shared`: a single one. With router: topic, a routed variant takes its keys from
    topics (TopicLoRA). Raises TopicLoraError for settings that do not fit together.
    """

    method: ClassVar[str] = "perft"
    choices: ClassVar[Mapping[str, Sequence[str]]] = {
        "variant": _VARIANTS,
        "adapter_type": ("lora", "parallel"),
        "renormalize": ("auto", "on", "off"),
        "router_weight_source": ("own", "pretrained"),
        "router": ("linear", "topic"),
        "kernel": ("auto", "dense", "sparse"),
    }

    variant: str = field(default="routed", metadata={"help": "'routed', 'embedded', 'dense' or 'shared'."})
    adapter_type: str = field(
        default="lora", metadata={"help": "'lora', or 'parallel': SiLU in the bottleneck and no scaling."}
    )
    num_adapters: int = field(
        default=8,
        metadata={
            "help": "Number of adapters, M; 'embedded' has one for each expert of the base, 'shared' one in all."
        },
    )
    shared_adapters: int = field(
        default=0, metadata={"help": "Adapters beside those of the routed variant that every token passes through."}
    )
    top_k: int = field(default=2, metadata={"help": "Adapters per token of the routed variant; at most num_adapters."})
    renormalize: str = field(
        default="auto",
        metadata={
            "help": "Whether the top_k weights are made to sum to 1: 'on', 'off', or 'auto': as norm_topk_prob in "
            "the base's configuration says, on where it has none, off for top_k 1, where the router would get no "
            "gradient."
        },
    )
    router_weight_source: str = field(
        default="own",
        metadata={
            "help": "'pretrained' weights the chosen adapters with the base router's largest weights instead "
            "(what the authors' code does on OLMoE); the own router then learns from its balance loss only."
        },
    )
    train_router: bool | None = field(
        default=None,
        metadata={
            "help": "Whether the own router trains. Null: where its weights are used; with router_weight_source: "
            "'pretrained' nothing but a loss on the routing itself would reach it."
        },
    )
    router: str = field(default="linear", metadata={"help": "'linear', or 'topic': keys anchored in topics."})
    kernel: str = field(
        default="auto", metadata={"help": "All adapters masked ('dense'), sorted ('sparse'), or the faster."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target_modules in ("experts", "all-linear"):
            self.target_modules = None
        if self.variant == "shared":
            self.num_adapters = 1
        if self.variant in ("shared", "dense"):
            self.top_k = self.num_adapters
        self._check()

    @property
    def all_adapters(self) -> int:
        """M + S: the routed adapters first, the shared ones behind them."""
        return self.num_adapters + self.shared_adapters

    @property
    def routes(self) -> bool:
        """Whether the adapters have a router of their own."""
        return self.variant == "routed"

    @property
    def router_trains(self) -> bool:
        """Whether the own router, if there is one, is to be trained."""
        return self.router_weight_source == "own" if self.train_router is None else self.train_router

    @property
    def follows_base(self) -> bool:
        """Whether the weights of the adapters are the pretrained router's."""
        return self.variant == "embedded" or (self.routes and self.router_weight_source == "pretrained")

    @property
    def gates_at_start(self) -> float:
        return perft_gates_at_start(
            self.variant,
            self.num_adapters,
            top_k=self.top_k,
            renormalize=self.renormalize,
            shared_adapters=self.shared_adapters,
        )

    @property
    def scale(self) -> float:
        return self.scale_by_law() if self.adapter_type == "lora" else 1.0

    def card(self) -> Card:
        """What the model card says of such an adapter."""
        number = {
            "routed": f"{self.num_adapters} adapters with a `{self.router}` router of their own (top-{self.top_k})"
            + (f" and {self.shared_adapters} more for every token" if self.shared_adapters else ""),
            "embedded": "one adapter for each pretrained expert, under the pretrained router",
            "dense": f"{self.num_adapters} adapters, summed",
            "shared": "one adapter",
        }[self.variant]
        return Card(
            title="PERFT adapter",
            summary=f"{number[0].upper()}{number[1:]}, of bottleneck width {self.r}, beside the experts of every "
            "adapted mixture-of-experts block (PERFT, arXiv 2508.02587). It has no dense weight and cannot be merged.",
            serving="Serve it through peft or transformers.",
            shown=[key for variants, keys in _SHOWN for key in keys if self.variant in variants],
        )

    def _check(self) -> None:
        for key in ("r", "num_adapters", "top_k"):
            if getattr(self, key) < 1:
                raise TopicLoraError(f"{key} ({getattr(self, key)}) must be at least 1.")
        if self.routes and self.top_k > self.num_adapters:
            raise TopicLoraError(f"top_k ({self.top_k}) cannot exceed num_adapters ({self.num_adapters}).")
        if not self.routes and (self.router == "topic" or self.router_weight_source == "pretrained"):
            raise TopicLoraError(
                f"The {self.variant} variant has no router of its own to set.",
                "Use variant: routed, or leave out router and router_weight_source.",
            )
        if self.scaling == "total" and self.follows_base:
            raise TopicLoraError(
                "scaling: total goes by what the gates sum to, and the pretrained router's are the base model's own.",
                "Use scaling: expert.",
            )
        check_shared(self.shared_adapters, self.num_adapters, key="shared_adapters", of="num_adapters")
        if self.shared_adapters and not self.routes:
            raise TopicLoraError(
                f"shared_adapters means nothing to the {self.variant} variant, which routes none by itself.",
                "Use variant: routed, or leave it out.",
            )
        if self.anchors is not None:
            check_anchors(self.anchors, [self.num_adapters])
