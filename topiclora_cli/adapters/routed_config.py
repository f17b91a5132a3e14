"""What the configurations of our peft methods have in common: where adapters go, what keys mean, how they are saved."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from peft import PeftConfig

from topiclora_cli.adapters.card import Card, write_card
from topiclora_cli.adapters.old_files import FORMAT
from topiclora_cli.adapters.peft_type import extend_peft_type
from topiclora_cli.adapters.routers import INITS
from topiclora_cli.errors import TopicLoraError, nearest
from topiclora_cli.scaling import LAWS, law_name


@dataclass
class RoutedConfig(PeftConfig):
    """Base of the configurations of routed adapters; each names its peft type and the values that its keys take."""

    method: ClassVar[str]
    choices: ClassVar[Mapping[str, Sequence[str]]]

    r: int = field(default=8, metadata={"help": "Rank of one expert, or width of one adapter's bottleneck."})
    lora_alpha: float = field(default=16.0, metadata={"help": "Numerator of the scale, under all laws of scaling."})
    scaling: str | None = field(
        default=None,
        metadata={
            "help": "Law of the scale: 'expert', lora_alpha / r; 'total', divided by the gates' sum too, so that the "
            "first step is a plain LoRA's; 'sqrt', lora_alpha / sqrt(r). Null: 'expert', as in files without this key."
        },
    )
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout on the input of the experts."})
    target_modules: list[str] | str | None = field(
        default=None,
        metadata={"help": "Names, a regular expression, or 'all-linear' (never a base router)."},
    )
    exclude_modules: list[str] | str | None = field(default=None, metadata={"help": "Names or a regex to leave out."})
    layers_to_transform: list[int] | int | None = field(default=None, metadata={"help": "Layer indices to adapt."})
    layers_pattern: list[str] | str | None = field(default=None, metadata={"help": "Name of the list of layers."})
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "Modules trained and saved whole."})
    expert_dropout: str = field(
        default="shared", metadata={"help": "'shared': one dropout mask for all experts; 'own': one for each."}
    )
    router_init: str = field(
        default="kaiming", metadata={"help": "Start of the router: 'kaiming' (uniform, by the width), or N(0, 0.02^2)."}
    )
    trainable_token_indices: list[int] | dict[str, list[int]] | None = field(
        default=None, metadata={"help": "Tokens whose embeddings train beside the adapter, as in peft's LoRA."}
    )
    router_temperature: float = field(default=1.0, metadata={"help": "Divides the router's logits."})
    train_keys: bool = field(default=False, metadata={"help": "Let the topic router's keys move from their anchors."})
    anchors: list[list[float]] | None = field(
        default=None, metadata={"help": "Expert vectors (E, d) to start the keys from; not saved, the keys are."}
    )
    graph_sha256: str | None = field(default=None, metadata={"help": "Hash of the topic graph the anchors came from."})
    format_version: int = field(default=FORMAT, metadata={"help": "Of the adapter's files; not to be set."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = extend_peft_type(self.method)
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)  # type: ignore[assignment]
        if isinstance(self.exclude_modules, list):
            self.exclude_modules = set(self.exclude_modules)  # type: ignore[assignment]
        if self.format_version > FORMAT:
            raise TopicLoraError(
                f"The adapter's files are of format {self.format_version}, this version reads up to {FORMAT}.",
                "Upgrade topiclora.",
            )
        self.scaling = law_name(self.scaling, use_rslora=getattr(self, "use_rslora", False))
        known_values = {"expert_dropout": ("shared", "own"), "router_init": INITS, "scaling": tuple(LAWS)}
        for key, known in {**known_values, **self.choices}.items():
            if getattr(self, key) not in known:
                hint = nearest(str(getattr(self, key)), known)
                raise TopicLoraError(f"{key} {getattr(self, key)!r} is unknown.", hint)
        if self.lora_alpha <= 0 or self.router_temperature <= 0:
            raise TopicLoraError("lora_alpha and router_temperature must be above 0.")
        if not 0 <= self.lora_dropout < 1:
            raise TopicLoraError(f"lora_dropout ({self.lora_dropout}) must lie between 0 and 1.")

    @property
    def gates_at_start(self) -> float:
        """What the gates of a token sum to where routing is even."""
        raise NotImplementedError

    @property
    def scale(self) -> float:
        """The factor of an expert's product."""
        return self.scale_by_law()

    def scale_by_law(self) -> float:
        """The scale by the law of `scaling`."""
        return LAWS[str(self.scaling)].scale(self.lora_alpha, self.r, self.gates_at_start)

    def card(self) -> Card:
        """What the model card says of such an adapter."""
        raise NotImplementedError

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Save as peft does, and have the model card beside it say what the adapter is."""
        super().save_pretrained(save_directory, **kwargs)
        write_card(Path(save_directory), self, self.card())

    def to_dict(self) -> dict[str, Any]:
        """The fields peft saves; the anchors live on in the routers' keys."""
        return {**super().to_dict(), "anchors": None}
