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
    """Optimisation, in the words of transformers' TrainingArguments.

    With held-out examples (data.validation) there is a validation, and a checkpoint, every `eval_steps`.
    """

    epochs: float = Field(default=1.0, gt=0)
    """How often every example is trained on; the last step of an epoch takes what is left of them."""
    max_steps: int | None = Field(default=None, ge=1)
    """When to stop, in optimizer steps, instead of after `epochs`; unset, the epochs decide."""
    batch_size: int = Field(default=16, ge=1)
    """Examples per process and micro-batch."""
    gradient_accumulation: int = Field(default=1, ge=1)
    """Micro-batches to an optimizer step."""
    learning_rate: float = Field(default=2e-4, gt=0)
    """Peak learning rate of experts and whatever else is trained but routers; methods bring their own."""
    router_learning_rate: float | None = Field(default=None, gt=0)
    """Peak learning rate of routers; unset, `learning_rate`. For methods that have routers."""
    loraplus_lr_ratio: float | None = Field(default=None, ge=1)
    """How many times faster the matrices B learn than A, as in LoRA+ (arXiv 2402.12354); unset, equally fast."""
    lr_scheduler: str = "cosine"
    """How the rate goes on after the warm-up, by transformers' name of the schedule."""
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    """Share of the steps in which the rate rises to its peak."""
    warmup_steps: int | None = Field(default=None, ge=0)
    """Steps in which the rate rises to its peak, in place of `warmup_ratio`."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decay of the experts and of all else that is trained but biases and norms; routers have none."""
    max_grad_norm: float = Field(default=1.0, ge=0)
    """Gradients are clipped to this norm; 0 leaves them."""
    group_by_length: bool = True
    """Put examples of like length in a batch, which saves padding."""
    packing: bool = False
    """Lay a batch out in fewer rows, several examples in each, which do not see one another."""
    neftune_noise_alpha: float | None = Field(default=None, gt=0)
    """Noise of this size on the tokens' embeddings in training, as in NEFTune (arXiv 2310.05914); unset, none."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Numbers that training computes in; `auto` is bfloat16 where the machine is faster with it."""
    gradient_checkpointing: bool = False
    """Compute activations a second time in the backward pass, which saves memory and costs time."""
    logging_steps: int = Field(default=1, ge=1)
    """Steps between rows of metrics.jsonl."""
    save_steps: int = Field(default=50, ge=1)
    """Steps between checkpoints."""
    save_total_limit: int = Field(default=2, ge=1)
    """How many checkpoints to keep, the newest and the best among them."""
    eval_steps: int | None = Field(default=None, ge=1)
    """Steps between validations, each with a checkpoint; unset, `save_steps`. Needs data.validation."""
    metric_for_best: Literal["eval_loss", "eval_kl"] = "eval_loss"
    """What the best checkpoint has the least of on held-out examples: the loss, or the KL to the prior."""
    load_best: bool = False
    """End with the weights of the best checkpoint, not of the last step. Needs data.validation."""
    early_stopping_patience: int | None = Field(default=None, ge=1)
    """End training after so many validations in a row without a better `metric_for_best`; unset, train on. Needs
    data.validation; with `load_best`, the run ends with the best weights."""
    report_to: list[Literal["tensorboard", "wandb", "trackio", "mlflow"]] = []
    """Trackers that get the metrics, too; each needs its package."""
    optimizer: Optimizer = "adamw_torch_fused"
    """transformers' name of the optimizer; those in 8 bits or paged need bitsandbytes."""
    torch_compile: bool = False
    """Compile the model with torch.compile."""
    liger: bool = False
    """Fused kernels of liger-kernel, for GPUs."""
    fsdp: bool = False
    """Shard the model over GPUs; start one process for each with torchrun."""
    fsdp_config: dict[str, Any] = {}
    """transformers' settings of FSDP, as they are."""

    @field_validator("lr_scheduler")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in SCHEDULERS:
            raise ValueError(f"unknown schedule; known: {', '.join(SCHEDULERS)}. {nearest(name, SCHEDULERS)}")
        return name
