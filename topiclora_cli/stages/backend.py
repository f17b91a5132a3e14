"""What runs the models of an evaluation: transformers in this process, or vLLM, which loads them itself."""

from collections.abc import Callable
from pathlib import Path

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.evaluation.subject import Loaded
from topiclora_cli.evaluation.vllm import VllmModel
from topiclora_cli.models.base import base_source
from topiclora_cli.recipe import Recipe


def through_backend(recipe: Recipe, load: Callable[[], Loaded], adapter: Path | None = None) -> Callable[[], Loaded]:
    """`load`, or what has vLLM load the recipe's base, and the stock LoRA in the folder `adapter`, where eval.backend
    says so.

    Raises TopicLoraError at once where vLLM is not installed, or does not know the adapter.
    """
    if recipe.eval.backend == "hf":
        if recipe.eval.backend_args:
            raise TopicLoraError(
                "eval.backend_args is what vLLM is made with, and eval.backend is hf.", "--backend vllm"
            )
        return load
    section = recipe.model
    if section.quantization is not None:
        raise TopicLoraError(
            "eval.backend: vllm loads the base as it lies, and model.quantization packs it on loading.",
            "Leave one of the two out.",
        )
    base = base_source(section.name, section.upcycle, revision=section.revision)
    model = VllmModel(base, adapter, section.revision, section.trust_remote_code, section.dtype)
    return lambda: model
