"""Libraries that a recipe may ask for and topiclora does not need: asked about before anything is loaded."""

import importlib.util

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import Recipe

# Modules that serve a purpose, any one of them, by the package to install; the others are named as their package is.
_MODULES = {"tensorboard": ("tensorboard", "tensorboardX"), "liger-kernel": ("liger_kernel",)}
_OF_BITSANDBYTES = ("_8bit", "paged_", "lion_")


def require_libraries(recipe: Recipe) -> None:
    """Raises TopicLoraError, naming the key and the package, where a library that the recipe asks for is missing."""
    train = recipe.train
    wanted: dict[str, str] = {f"train.report_to: {name}": name for name in train.report_to}
    if any(part in train.optimizer for part in _OF_BITSANDBYTES):
        wanted[f"train.optimizer: {train.optimizer}"] = "bitsandbytes"
    if train.liger:
        wanted["train.liger"] = "liger-kernel"
    for key, package in wanted.items():
        if not any(importlib.util.find_spec(module) for module in _MODULES.get(package, (package,))):
            raise TopicLoraError(
                f"{key} needs the package {package}, which is not installed.",
                f"Install {package}, or change the key.",
            )
