"""A stage of a run at work, with the recipe that it really runs with on record.

The run's own recipe.yaml is what its adapter is trained with: a graph and a training change it where this call's --set
does, so that later stages read it there. An evaluation or an export changes nothing but its own record.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import Recipe, altered, differences, dump_recipe, load_recipe, read_recipe
from topiclora_cli.runs.files import write_text
from topiclora_cli.runs.processes import process_index
from topiclora_cli.runs.run import RECIPE, RunDir, Running

# What a topic graph depends on, and a training after it has to know.
_KEEPING = ("eval", "merge", "ablation")  # stages that never touch what an earlier call has made
_OF_THE_GRAPH = ("model.", "graph.", "data.", "seed", "adapter.num_experts")


@contextmanager
def stage(
    run: RunDir, name: str, recipe: Recipe, *, folder: Path | None = None, spent: float = 0.0
) -> Iterator[Running]:
    """Mark a stage running, then done, as RunDir.running does, and yield what takes its result.

    The recipe goes into `folder`, or else `recipes/NAME.yaml`; the record names that file, and what in it is not as
    the run's own recipe says. Of processes that train together the first writes.
    """
    if process_index() > 0:
        yield Running()
        return
    before, record_before = (run.path / RECIPE).read_bytes(), run.stage(name)
    overridden = differences(read_recipe(before, where=str(run.path / RECIPE)), recipe)
    path = run.path / "recipes" / f"{name}.yaml" if folder is None else folder / RECIPE
    write_text(path, dump_recipe(recipe))
    if name == "train" and overridden:
        write_text(run.path / RECIPE, dump_recipe(recipe))
    try:
        with run.running(name, recipe=str(path.relative_to(run.path)), overridden=overridden, spent=spent) as running:
            yield running
    except BaseException as error:
        failed = isinstance(error, TopicLoraError)
        if name == "train" and failed:
            write_text(
                run.path / RECIPE, before.decode("utf-8")
            )  # a mistake in an override is not to come back without it
        # What was made before is still there, and on record. Of a graph or a training that is so where nothing began.
        if record_before is not None and record_before.state == "done" and (failed or name in _KEEPING):
            run.record(name, record_before)
            if name == "train":
                write_text(path, before.decode("utf-8"))
        raise


def record_graph_recipe(run: RunDir, recipe: Recipe) -> None:
    """Write into the run's recipe what the topic graph was built with, unless an adapter was trained with other things.

    recipe: the one of the graph, with the number of experts in place of `auto`.
    """
    own = load_recipe(str(run.path / RECIPE))
    changes = {key: value for key, value in differences(own, recipe).items() if key.startswith(_OF_THE_GRAPH)}
    trained = run.stage("train")
    if changes and (trained is None or trained.state == "failed"):
        write_text(run.path / RECIPE, dump_recipe(altered(own, changes.items(), where=str(run.path / RECIPE))))
