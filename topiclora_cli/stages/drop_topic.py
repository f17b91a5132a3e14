"""A topic leaves a trained run: a new run without it, and without its expert where no other topic shares that."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from topiclora_cli.adapters.grow import without_expert
from topiclora_cli.recipe import Recipe, dump_recipe
from topiclora_cli.runs.files import replacing
from topiclora_cli.runs.progress import Progress
from topiclora_cli.runs.results.record import DroppedTopic
from topiclora_cli.runs.run import LOCK, RunDir
from topiclora_cli.stages.growing import free_path, open_mixture, write_mixture
from topiclora_cli.stages.growing_data import shrunk_recipe
from topiclora_cli.stages.inputs import ADAPTER, GRAPH, TRAINED_GRAPH
from topiclora_cli.topics.grow import without_topic


@dataclass(frozen=True)
class Dropped:
    """The new run, and what went."""

    run: RunDir
    facts: DroppedTopic


def drop_topic(recipe: Recipe, run: RunDir, progress: Progress, *, topic: str, out: Path | None = None) -> Dropped:
    """Make a run without a topic at `out`, or beside the run, which stays as it is; nothing is trained.

    Prompts that never chose an expert that goes are answered as before. Raises TopicLoraError for a topic that is not
    there, for a run in whose mixture topics cannot come and go, and where too few would be left.
    """
    mixture = open_mixture(recipe, run)
    shrunk = without_topic(mixture.graph, topic)
    path = free_path(run, out, "-without-", topic)
    tensors, config = mixture.tensors, mixture.config
    if shrunk.expert is not None:
        tensors, config = without_expert(tensors, config, shrunk.expert)
        progress.say(f"Expert {shrunk.expert} goes with {topic!r}: no other topic goes to it first.")
    else:
        shared = ", ".join(shrunk.owners)
        progress.say(f"The expert of {topic!r} stays, as it is also that of {shared}; the topic leaves the prior.")
    fewer = shrunk_recipe(recipe, topic, config.num_experts)
    facts = DroppedTopic(topic, run.path.name, shrunk.expert, ", ".join(shrunk.owners))
    with replacing(path) as temporary:
        made = RunDir.create(temporary, recipe_yaml=dump_recipe(fewer), name=recipe.name, seed=recipe.seed)
        with made.running("drop-topic") as running:
            config = replace(config, graph_sha256=shrunk.graph.sha256, inference_mode=True)
            write_mixture(temporary / ADAPTER, tensors, config)
            shrunk.graph.save(temporary / GRAPH)
            shrunk.graph.save(temporary / TRAINED_GRAPH)
            running.result = facts
        trained = run.stage("train")
        if trained is not None:
            made.record("train", replace(trained, recipe=None))
        if (run.path / "metrics.jsonl").exists():
            shutil.copyfile(run.path / "metrics.jsonl", temporary / "metrics.jsonl")
        (temporary / LOCK).unlink(missing_ok=True)
    return Dropped(RunDir(path), facts)
