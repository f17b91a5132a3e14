"""All that a report of a run is made of, read from its folder once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import Recipe
from topiclora_cli.reporting.differences import recipe_in
from topiclora_cli.runs.outcomes import evaluations_of, exports_of, models_of, probe_studies_of, routing_studies_of
from topiclora_cli.runs.results.ablation import GridScores
from topiclora_cli.runs.results.evaluation import EvalSummary
from topiclora_cli.runs.results.export import Export
from topiclora_cli.runs.results.files import read_result
from topiclora_cli.runs.results.graph import GraphReport
from topiclora_cli.runs.results.metrics import LoggedStep, read_metrics
from topiclora_cli.runs.results.models import ModelScores
from topiclora_cli.runs.results.record import Manifest, StageRecord
from topiclora_cli.runs.results.routing import ProbeStudy, RoutingStudy
from topiclora_cli.runs.results.training import TrainResult
from topiclora_cli.runs.run import METRICS, RunDir


@dataclass(frozen=True)
class Material:
    """A run under the name that tells it from the others of a report; None or empty is what it does not have.

    recipe: None where it cannot be read any more. recipes: of each evaluation and export, by its folder in the run.
    """

    label: str
    path: Path
    manifest: Manifest
    recipe: Recipe | None
    recipes: Mapping[str, Recipe]
    graph: GraphReport | None
    training: TrainResult | None
    metrics: Sequence[LoggedStep]
    evaluations: Mapping[str, EvalSummary]
    models: Mapping[str, ModelScores]
    exports: Mapping[str, Export]
    routing: Mapping[str, RoutingStudy]
    probes: Mapping[str, ProbeStudy]
    grid: GridScores | None

    def stage(self, name: str) -> StageRecord | None:
        """The record of a stage that is done."""
        record = self.manifest.stages.get(name)
        return record if record is not None and record.state == "done" else None


def read_material(runs: Sequence[RunDir]) -> list[Material]:
    """What each run holds; raises TopicLoraError for a file that is damaged, or that a newer version has written."""
    names = [run.path.resolve().name for run in runs]
    unique = len(set(names)) == len(names)
    labels = names if unique else [str(run.path) for run in runs]
    return [_read(run, label) for run, label in zip(runs, labels, strict=True)]


def _read(run: RunDir, label: str) -> Material:
    manifest = run.manifest
    done = {name: record for name, record in manifest.stages.items() if record.state == "done"}
    evaluations, exports = evaluations_of(run), exports_of(run)
    names = [*(f"eval/{name}" for name in evaluations), *(f"merged/{name}" for name in exports)]
    own = {name: _recipe(run.path / name) for name in names}
    return Material(
        label=label,
        path=run.path,
        manifest=manifest,
        recipe=_recipe(run.path),
        recipes={name: recipe for name, recipe in own.items() if recipe is not None},
        graph=read_result(run.path / "graph" / "report.json", GraphReport) if "graph" in done else None,
        training=manifest.trained,
        metrics=read_metrics(run.path / METRICS),
        evaluations=evaluations,
        models=models_of(run),
        exports=exports,
        routing=routing_studies_of(run),
        probes=probe_studies_of(run),
        grid=read_result(run.path / "ablation" / "results.json", GridScores) if "ablation" in done else None,
    )


def _recipe(folder: Path) -> Recipe | None:
    try:
        return recipe_in(folder)
    except TopicLoraError:
        return None
