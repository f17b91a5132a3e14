"""What may follow an evaluation: a study of its model's routing, and probes of its prompts."""

from dataclasses import dataclass, replace
from pathlib import Path

from topiclora_cli.errors import TopicLoraError, nearest
from topiclora_cli.evaluation.loading import load_tasks
from topiclora_cli.evaluation.probes import PROBES as KNOWN
from topiclora_cli.recipe import Recipe, load_recipe
from topiclora_cli.runs.naming import PROBES, ROUTING
from topiclora_cli.runs.progress import Progress
from topiclora_cli.runs.results.files import write_result
from topiclora_cli.runs.results.routing import ProbeStudy, RoutingStudy
from topiclora_cli.runs.run import RECIPE, RunDir
from topiclora_cli.stages.inputs import adapter_folder, graph_folder, load_tuned, open_base
from topiclora_cli.stages.opened import Opened, open_for_study
from topiclora_cli.stages.probe_study import probe_prompts
from topiclora_cli.stages.routing_sheets import write_probe_sheet, write_routing_sheets
from topiclora_cli.stages.routing_study import study_routing
from topiclora_cli.stages.training_data import eval_request

QUESTIONS = 10  # of each task, under each of some dozen conditions


@dataclass(frozen=True)
class Wanted:
    """What to study: routing, probes by name, against which run's adapter, and how many questions of each task.

    alike: probe the same prompts whatever a model's own graph says of them, as cells of a grid are.
    """

    routing: bool = False
    probes: tuple[str, ...] = ()
    against: Path | None = None
    questions: int = QUESTIONS
    alike: bool = False

    def __bool__(self) -> bool:
        return self.routing or bool(self.probes)

    def check(self) -> None:
        """Raise TopicLoraError for a probe that nobody knows, and for another run that cannot be probed."""
        for probe in self.probes:
            if probe not in KNOWN:
                raise TopicLoraError(f"There is no probe {probe!r}.", nearest(probe, KNOWN))
        if self.against is not None:
            if not self.probes:
                raise TopicLoraError(
                    "--against is what probes are held against, and none is asked for.", "Add --probe."
                )
            other = RunDir(self.against)
            adapter_folder(load_recipe(str(other.path / RECIPE)), other)


@dataclass(frozen=True)
class Studies:
    """What was found of it."""

    routing: RoutingStudy | None = None
    probes: ProbeStudy | None = None


def study(recipe: Recipe, run: RunDir, progress: Progress, wanted: Wanted, *, name: str) -> Studies:
    """Study routing and probe prompts on the tasks of the evaluation `name`, beside whose results the outcome lies.

    A method without routers is said to have none. Raises TopicLoraError as `Wanted.check` and the evaluation do.
    """
    wanted.check()
    folder, found = run.path / "eval" / name, Studies()
    graph = graph_folder(run, progress)
    base, model = load_tuned(recipe, run, open_base(recipe))
    opened = open_for_study(recipe, base, model, graph)
    request = eval_request(recipe)
    tasks = load_tasks(request)
    if wanted.routing:
        studied = study_routing(opened, tasks, request, progress, limit=wanted.questions, graph=graph)
        if studied is None:
            progress.say(f"The adapter ({recipe.adapter.method}) has no routers, so there is no routing to study.")
        else:
            write_routing_sheets(folder / "routing", studied)
            write_result(folder / ROUTING, studied.study)
            found = replace(found, routing=studied.study)
    if wanted.probes:
        against = None if wanted.against is None else (wanted.against.resolve().name, _other(wanted.against, progress))
        probed = probe_prompts(
            opened,
            tasks,
            request,
            progress,
            wanted.probes,
            limit=wanted.questions,
            against=against,
            alike=wanted.alike,
        )
        write_probe_sheet(folder / "probes.csv", probed)
        write_result(folder / PROBES, probed)
        found = replace(found, probes=probed)
    return found


def _other(path: Path, progress: Progress) -> Opened:
    run = RunDir(path)
    recipe = load_recipe(str(run.path / RECIPE))
    base, model = load_tuned(recipe, run)
    return open_for_study(recipe, base, model, None)
