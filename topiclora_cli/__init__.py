"""topiclora: mixtures of LoRA experts whose routing is anchored in topics.

Importing this package is cheap; the public names below load what they need when first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "TopicLoraConfig": "topiclora_cli.adapters",
    "PerftConfig": "topiclora_cli.adapters",
    "TopicGraph": "topiclora_cli.topics.store",
    "Recipe": "topiclora_cli.recipe",
    "RunDir": "topiclora_cli.runs.run",
}

if TYPE_CHECKING:
    from topiclora_cli.adapters import PerftConfig, TopicLoraConfig
    from topiclora_cli.recipe import Recipe
    from topiclora_cli.runs.run import RunDir
    from topiclora_cli.topics.store import TopicGraph

__all__ = ["PerftConfig", "Recipe", "RunDir", "TopicGraph", "TopicLoraConfig", "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
