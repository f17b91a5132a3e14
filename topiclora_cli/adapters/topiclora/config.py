"""Configuration of the mixture-of-LoRA method, in peft's terms."""

from dataclasses import dataclass, field
from typing import Any

from peft import PeftConfig

from topiclora_cli.adapters.peft_type import extend_peft_type
from topiclora_cli.errors import TopicLoraError

ROUTERS = ("topic", "linear")


@dataclass
class TopicLoraConfig(PeftConfig):
    """A mixture of LoRA experts on linear layers, routed per token.

    Without `anchors` the topic router's keys start as a simplex, so this is usable as a plain peft method. Raises
    TopicLoraError for sizes that do not fit together. Source: reconstruction of TopicLoRA (AAAI 2026).
    """

    r: int = field(default=8, metadata={"help": "Rank of one expert."})
    num_experts: int = field(default=8, metadata={"help": "Number of LoRA experts, E."})
    top_k: int | None = field(default=None, metadata={"help": "Active experts per token; None mixes all."})
    lora_alpha: float = field(default=16.0, metadata={"help": "Scaling numerator: s = lora_alpha / r."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout on the input of the experts."})
    use_rslora: bool = field(default=False, metadata={"help": "Scale by lora_alpha / sqrt(r) (arXiv 2312.03732)."})
    target_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Names, a regular expression, or 'all-linear'."}
    )
    exclude_modules: list[str] | str | None = field(default=None, metadata={"help": "Names or a regex to leave out."})
    layers_to_transform: list[int] | int | None = field(default=None, metadata={"help": "Layer indices to adapt."})
    layers_pattern: list[str] | str | None = field(default=None, metadata={"help": "Name of the list of layers."})
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "Modules trained and saved whole."})
    router: str = field(default="topic", metadata={"help": "'topic' (anchored keys) or 'linear'."})
    router_temperature: float = field(default=1.0, metadata={"help": "Divides the router's logits."})
    train_keys: bool = field(default=False, metadata={"help": "Let the topic router's keys move from their anchors."})
    shared_a: bool = field(default=False, metadata={"help": "One A for all experts (HydraLoRA, arXiv 2404.19245)."})
    anchors: list[list[float]] | None = field(
        default=None, metadata={"help": "Expert vectors (E, d) to start the keys from; not saved, the keys are."}
    )
    graph_sha256: str | None = field(default=None, metadata={"help": "Hash of the topic graph the anchors came from."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = extend_peft_type("topiclora")
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)  # type: ignore[assignment]
        if isinstance(self.exclude_modules, list):
            self.exclude_modules = set(self.exclude_modules)  # type: ignore[assignment]
        self._check()

    @property
    def scaling(self) -> float:
        return self.lora_alpha / (self.r**0.5 if self.use_rslora else self.r)

    def to_dict(self) -> dict[str, Any]:
        """The fields peft saves; the anchors live on in the routers' keys."""
        return {**super().to_dict(), "anchors": None}

    def _check(self) -> None:
        if self.r < 1 or self.num_experts < 1:
            raise TopicLoraError(f"r ({self.r}) and num_experts ({self.num_experts}) must be at least 1.")
        if self.top_k is not None and not 1 <= self.top_k <= self.num_experts:
            raise TopicLoraError(f"top_k ({self.top_k}) must lie between 1 and num_experts ({self.num_experts}).")
        if self.router not in ROUTERS:
            raise TopicLoraError(f"router {self.router!r} is unknown.", f"Known: {', '.join(ROUTERS)}.")
        if self.anchors is not None and len(self.anchors) != self.num_experts:
            raise TopicLoraError(f"{len(self.anchors)} anchors do not fit num_experts ({self.num_experts}).")
        if (
            isinstance(self.target_modules, str)
            and self.layers_to_transform is not None
            and (self.target_modules != "all-linear")
        ):
            raise TopicLoraError("layers_to_transform cannot be combined with a regular expression in target_modules.")
