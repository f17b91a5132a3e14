"""The hand-off to vLLM by lm-eval's own class for it: a model's folder, and a stock LoRA on it where there is one."""

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.evaluation.harness import SEEDS, EvalRequest

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the most that an engine of vLLM's can be made for
_ALL = 1 << 30
_STOCK = "LORA"
_FREE = ("dtype", "max_lora_rank")  # what may be said otherwise for vLLM


@dataclass(frozen=True)
class VllmModel:
    """What vLLM loads: a model by folder or hub id in a dtype, and the folder of a stock LoRA on it.

    Raises TopicLoraError where vLLM is not installed, and for an adapter that it does not know.
    """

    base: str
    lora: Path | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise TopicLoraError(
                "eval.backend: vllm needs the package vllm, which is not installed.", "pip install vllm"
            )
        if self.lora is not None and (kind := self._settings().get("peft_type")) != _STOCK:
            raise TopicLoraError(
                f"vLLM knows no adapter of the kind {kind}, as {self.lora} is.",
                "Evaluate an export with fixed gates (topiclora merge), or leave --backend out.",
            )

    @property
    def rank(self) -> int:
        """The LoRA's largest rank, or the next that vLLM takes."""
        settings = self._settings()
        largest = max([settings["r"], *(settings.get("rank_pattern") or {}).values()])
        return next((rank for rank in _RANKS if rank >= largest), largest)

    def _settings(self) -> dict[str, Any]:
        assert self.lora is not None
        settings: dict[str, Any] = json.loads((self.lora / "adapter_config.json").read_text(encoding="utf-8"))
        return settings


def open_vllm(model: VllmModel, request: EvalRequest) -> Any:
    """lm-eval's vLLM with the model loaded; its own errors come as they are.

    Raises TopicLoraError for an argument of the request that is not its to set, or that nobody knows.
    """
    from lm_eval.models.vllm_causallms import VLLM

    with_lora = {} if model.lora is None else {"lora_local_path": str(model.lora), "max_lora_rank": model.rank}
    own: dict[str, Any] = {
        "pretrained": model.base,
        # Of its own accord vLLM has float32 weights compute in 16 bits.
        "dtype": "bfloat16" if request.bfloat16 else model.dtype,
        "revision": model.revision,
        "trust_remote_code": model.trust_remote_code,
        # `auto` is all at once there, under a bar of vLLM's own, which divides by zero where nobody watches.
        "batch_size": _ALL if str(request.batch_size).startswith("auto") else request.batch_size,
        "seed": SEEDS[2] if request.seeds[2] is None else request.seeds[2],
        **with_lora,
    }
    if taken := [name for name in request.backend_args if name in own and name not in _FREE]:
        raise TopicLoraError(
            f"eval.backend_args: {', '.join(taken)} comes from the recipe and the run.", "Leave it out."
        )
    try:
        return VLLM(**{**own, **request.backend_args})
    except TypeError as error:
        if unknown := [name for name in request.backend_args if f"'{name}'" in str(error)]:
            raise TopicLoraError(
                f"eval.backend_args: vLLM's engine takes no {unknown[0]!r}.", "See vllm serve --help=all."
            ) from None
        raise
