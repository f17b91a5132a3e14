"""The stages of a run as functions for Python users, without a terminal.

Each takes a run, as a RunDir or its folder; `start_run`, `build_graph` and `train` also take a recipe, and make a run
of it: a Recipe, a recipe file, or the name of a bundled one. What a stage says goes to the logger `topiclora_cli`, at
level INFO, unless it is given a `progress` (runs/progress.py). A mistake of the caller's is a TopicLoraError.
"""

from topiclora_cli.api.given import Folder, Overrides, load_recipe
from topiclora_cli.api.making import Trained, add_topic, build_graph, drop_topic, import_checkpoint, start_run, train
from topiclora_cli.api.using import compare, evaluate, load_model, load_prior, merge, route, study

__all__ = [
    "Folder",
    "Overrides",
    "Trained",
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
