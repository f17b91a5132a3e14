"""What a run has any number of, by name: its evaluations and its exports, the latest last."""

import json
from dataclasses import asdict

from topiclora_cli.runs.naming import GAP, MODELS, PROBES, ROUTING, SUMMARY, named_folders
from topiclora_cli.runs.results.evaluation import EvalSummary
from topiclora_cli.runs.results.export import Export
from topiclora_cli.runs.results.files import read_result
from topiclora_cli.runs.results.manifest import plain_manifest
from topiclora_cli.runs.results.models import ModelScores
from topiclora_cli.runs.results.routing import ProbeStudy, RoutingStudy
from topiclora_cli.runs.run import RunDir


def evaluations_of(run: RunDir) -> dict[str, EvalSummary]:
    """Every finished evaluation; raises TopicLoraError for one that is damaged."""
    folders = named_folders(run.path / "eval", SUMMARY)
    return {folder.name: read_result(folder / SUMMARY, EvalSummary) for folder in folders}


def models_of(run: RunDir) -> dict[str, ModelScores]:
    """Every evaluation of several models; raises TopicLoraError for one that is damaged."""
    folders = named_folders(run.path / "eval", MODELS)
    return {folder.name: read_result(folder / MODELS, ModelScores) for folder in folders}


def routing_studies_of(run: RunDir) -> dict[str, RoutingStudy]:
    """Of each evaluation what its routers did, where that was asked; raises TopicLoraError for one that is damaged."""
    folders = named_folders(run.path / "eval", ROUTING)
    return {folder.name: read_result(folder / ROUTING, RoutingStudy) for folder in folders}


def probe_studies_of(run: RunDir) -> dict[str, ProbeStudy]:
    """Of each evaluation its probes, where there were any; raises TopicLoraError for one that is damaged."""
    folders = named_folders(run.path / "eval", PROBES)
    return {folder.name: read_result(folder / PROBES, ProbeStudy) for folder in folders}


def exports_of(run: RunDir) -> dict[str, Export]:
    """Every finished export with fixed gates; raises TopicLoraError for one that is damaged."""
    folders = named_folders(run.path / "merged", GAP)
    return {folder.name: read_result(folder / GAP, Export) for folder in folders}


def run_as_json(run: RunDir) -> str:
    """The manifest of a run with its evaluations and exports; raises TopicLoraError for one that is damaged."""
    made = {
        "evaluations": [asdict(summary) for summary in evaluations_of(run).values()],
        "exports": [{"name": name, **asdict(export)} for name, export in exports_of(run).items()],
    }
    return json.dumps({**plain_manifest(run.manifest), **made}, ensure_ascii=False, indent=2)
