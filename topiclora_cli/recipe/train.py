"""What a recipe may say of the optimisation itself."""

from typing import Any, Literal

from pydantic import Field, field_validator

from topiclora_cli.errors import nearest
from topiclora_cli.recipe.section import Section

Optimizer = Literal[
    "adamw_torch",
    "adamw_torch_fused",
    "adamw_8bit",
    "paged_adamw_8bit",
    "paged_adamw_32bit",
    "lion_32bit",
    "lion_8bit",
    "paged_lion_8bit",
    "adafactor",
    "sgd",
]

# transformers' names of those that need no numbers of their own.
SCHEDULERS = (
    *("linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"),
    "reduce_lr_on_plateau",
)


class TrainSection(Section):
    """Optimisation, in the words of transformers' TrainingArguments; `warmup_steps` overrides `warmup_ratio`.

    epochs: how often every example is trained on; the last step of an epoch takes what is left of them. max_steps: when
    to stop instead. batch_size: examples per process and micro-batch. weight_decay: of the experts, and of all else
    that is trained but biases and norms; routers have none. With held-out examples there is a validation, and a
    checkpoint, every `eval_steps` (unset, `save_steps`); the best by `metric_for_best` is kept, and with `load_best` it
    is what the run ends with. packing: lay a batch out in fewer rows, several examples in each, which do not see one
    another. optimizer: in 8 bits or paged, it needs bitsandbytes. liger: fused kernels of liger-kernel, for GPUs. fsdp,
    fsdp_config: shard the model over GPUs.
    """

    epochs: float = Field(default=1.0, gt=0)
    max_steps: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=16, ge=1)
    gradient_accumulation: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=2e-4, gt=0)
    router_learning_rate: float | None = Field(default=None, gt=0)
    loraplus_lr_ratio: float | None = Field(default=None, ge=1)
    lr_scheduler: str = "cosine"
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    warmup_steps: int | None = Field(default=None, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, ge=0)
    group_by_length: bool = True
    packing: bool = False
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    gradient_checkpointing: bool = False
    logging_steps: int = Field(default=1, ge=1)
    save_steps: int = Field(default=50, ge=1)
    save_total_limit: int = Field(default=2, ge=1)
    eval_steps: int | None = Field(default=None, ge=1)
    metric_for_best: Literal["eval_loss", "eval_kl"] = "eval_loss"
    load_best: bool = False
    report_to: list[Literal["tensorboard", "wandb", "trackio", "mlflow"]] = []
    optimizer: Optimizer = "adamw_torch_fused"
    torch_compile: bool = False
    liger: bool = False
    fsdp: bool = False
    fsdp_config: dict[str, Any] = {}

    @field_validator("lr_scheduler")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in SCHEDULERS:
            raise ValueError(f"unknown schedule; known: {', '.join(SCHEDULERS)}. {nearest(name, SCHEDULERS)}")
        return name
