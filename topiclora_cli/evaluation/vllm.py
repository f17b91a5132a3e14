"""The hand-off to vLLM by lm-eval's own class for it: a model's folder, and a stock LoRA on it where there is one."""

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.evaluation.harness import SEEDS, EvalRequest

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the most that an engine of vLLM's can be made for
_STOCK = "LORA"


@dataclass(frozen=True)
class VllmModel:
    """What vLLM loads: a model by folder or hub id, and the folder of a stock LoRA on it.

    Raises TopicLoraError where vLLM is not installed, and for an adapter that it does not know.
    """

    base: str
    lora: Path | None = None
    revision: str | None = None
    trust_remote_code: bool = False

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
    """lm-eval's vLLM with the model loaded; its own errors come as they are."""
    from lm_eval.models.vllm_causallms import VLLM

    with_lora = {} if model.lora is None else {"lora_local_path": str(model.lora), "max_lora_rank": model.rank}
    return VLLM(
        pretrained=model.base,
        dtype="bfloat16" if request.bfloat16 else "auto",
        revision=model.revision,
        trust_remote_code=model.trust_remote_code,
        batch_size=request.batch_size,
        seed=SEEDS[2] if request.seeds[2] is None else request.seeds[2],
        **with_lora,
    )
