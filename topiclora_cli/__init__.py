"""topiclora: mixtures of LoRA experts whose routing is anchored in topics.

    import topiclora_cli as topiclora

    done = topiclora.train("quickstart", "runs/mine", overrides={"train.max_steps": 50})
    scores = topiclora.evaluate(done.run, limit=20)
    export = topiclora.merge(done.run, gates="topic:arithmetic")

Importing this package is cheap; the public names below load what they need when first used. It also has peft know our
methods, so that after this one import PeftModel.from_pretrained(base, "runs/mine/adapter") works.
"""

import importlib
from typing import TYPE_CHECKING, Any

from topiclora_cli.with_peft import register_methods

__version__ = "0.1.0"

_PUBLIC = {
    "PerftConfig": "topiclora_cli.adapters",
    "Recipe": "topiclora_cli.recipe",
    "RunDir": "topiclora_cli.runs.run",
    "TopicGraph": "topiclora_cli.topics.store",
    "TopicLoraConfig": "topiclora_cli.adapters",
    "TopicLoraError": "topiclora_cli.errors",
    "TopicPrior": "topiclora_cli.topics.prior",
    "TopicPriorMixin": "topiclora_cli.training.topic_prior",
    "Trained": "topiclora_cli.api",
    "add_priors": "topiclora_cli.training.prior_columns",
    "add_topic": "topiclora_cli.api",
    "build_graph": "topiclora_cli.api",
    "compare": "topiclora_cli.api",
    "drop_topic": "topiclora_cli.api",
    "evaluate": "topiclora_cli.api",
    "import_checkpoint": "topiclora_cli.api",
    "load_model": "topiclora_cli.api",
    "load_prior": "topiclora_cli.api",
    "load_recipe": "topiclora_cli.api",
    "merge": "topiclora_cli.api",
    "route": "topiclora_cli.api",
    "start_run": "topiclora_cli.api",
    "study": "topiclora_cli.api",
    "train": "topiclora_cli.api",
}

if TYPE_CHECKING:
    from topiclora_cli.adapters import PerftConfig, TopicLoraConfig
    from topiclora_cli.api import (
        Trained,
        add_topic,
        build_graph,
        compare,
        drop_topic,
        evaluate,
        import_checkpoint,
        load_model,
        load_prior,
        load_recipe,
        merge,
        route,
        start_run,
        study,
        train,
    )
    from topiclora_cli.errors import TopicLoraError
    from topiclora_cli.recipe import Recipe
    from topiclora_cli.runs.run import RunDir
    from topiclora_cli.topics.prior import TopicPrior
    from topiclora_cli.topics.store import TopicGraph
    from topiclora_cli.training.prior_columns import add_priors
    from topiclora_cli.training.topic_prior import TopicPriorMixin

__all__ = [
    "PerftConfig",
    "Recipe",
    "RunDir",
    "TopicGraph",
    "TopicLoraConfig",
    "TopicLoraError",
    "TopicPrior",
    "TopicPriorMixin",
    "Trained",
    "__version__",
    "add_priors",
    "add_topic",
    "build_graph",
    "compare",
    "drop_topic",
    "evaluate",
    "import_checkpoint",
    "load_model",
    "load_prior",
    "load_recipe",
    "merge",
    "route",
    "start_run",
    "study",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})


register_methods()
