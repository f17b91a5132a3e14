"""Of a report: what the runs were asked to do, what they cost, on what they ran, and how to do it again."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from topiclora_cli.recipe import Recipe, differences
from topiclora_cli.recipe.yaml_text import write_yaml
from topiclora_cli.reporting.beside import beside
from topiclora_cli.reporting.differences import recipe_differences
from topiclora_cli.reporting.material import Material
from topiclora_cli.reporting.sections import Code, Part, Section, Text
from topiclora_cli.reporting.table import Column, Table, row
from topiclora_cli.runs.commands import lasting_line
from topiclora_cli.runs.run import adapter_in

_STAGES = {"graph": "topic graph", "train": "training", "eval": "evaluation", "merge": "export", "ablation": "ablation"}
_AGAIN = "again"


def asked(runs: Sequence[Material]) -> Section:
    """What differs between the recipes first, then what was said."""
    known = [(run, run.recipe) for run in runs if run.recipe is not None]
    parts: list[Part] = [
        Text(f"The recipe of {run.label} cannot be read by this version.") for run in runs if run.recipe is None
    ]
    if len(known) > 1:
        parts += _differing([run.label for run, _ in known], [recipe for _, recipe in known])
    if known:
        first, recipe = known[0]
        whose = f" by {first.label}" if len(known) > 1 else ""
        parts += [Text(f"What was said{whose}; all else the method fills in, or is a default:"), Code(_said(recipe))]
    return Section("What was asked", parts)


def _differing(labels: Sequence[str], recipes: Sequence[Recipe]) -> list[Part]:
    rows = [row(key, *map(_value, values)) for key, values in recipe_differences(*recipes).items()]
    if not rows:
        return [Text("Their recipes are the same.")]
    return [Table("What differs", [Column("key"), *map(Column, labels)], rows)]


def _value(value: Any) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _said(recipe: Recipe) -> str:
    return write_yaml(recipe.said)


def cost(runs: Sequence[Material]) -> Section | None:
    """Seconds, memory, parameters and what lies on disk."""
    table = beside(runs, _cost)
    return Section("Cost", [table]) if table else None


def _cost(run: Material) -> dict[str, str]:
    facts = {"created": run.manifest.created}
    done = {name: run.stage(name) for name in _STAGES}
    seconds = {name: record.seconds for name, record in done.items() if record and record.seconds is not None}
    for name, each in seconds.items():
        facts[f"{_STAGES[name]}, seconds"] = f"{each:,.1f}"
    if len(seconds) > 1:
        facts["in all, seconds"] = f"{sum(seconds.values()):,.1f}"
    peaks = [value for each in run.metrics if (value := each.values.get("memory_gib")) is not None]
    if peaks:
        facts["peak memory of training, GiB"] = f"{max(peaks):.2f}"
    record = done["train"]
    if record and record.peak and record.peak.resident_gib is not None:
        facts["peak memory of its process, GiB"] = f"{record.peak.resident_gib:.2f}"
    rates = [value for each in run.metrics if (value := each.values.get("tokens_per_second")) is not None]
    if rates:
        facts["tokens per second"] = f"{sum(rates) / len(rates):,.0f}"
    if run.training:
        facts["trainable parameters"] = f"{run.training.total_parameters:,}"
        facts["activated per token"] = f"{run.training.activated_parameters:,}"
    weights = adapter_in(run.path) / "adapter_model.safetensors"
    if weights.is_file():
        facts["adapter on disk, MiB"] = f"{weights.stat().st_size / 2**20:.1f}"
    return facts


def environment(runs: Sequence[Material]) -> Section | None:
    """Versions and machine."""
    table = beside(runs, _environment)
    return Section("Environment", [table]) if table else None


def _environment(run: Material) -> dict[str, str]:
    facts = {name: version for name, version in run.manifest.versions.items() if version}
    if run.manifest.git:
        facts["commit"] = run.manifest.git
    facts["platform"] = run.manifest.platform
    machine = next((record.machine for record in run.manifest.stages.values() if record.machine), None)
    if machine:
        facts["processor"] = machine.processor
        if machine.memory_gib is not None:
            facts["memory, GiB"] = f"{machine.memory_gib:.0f}"
        if machine.accelerator:
            facts["accelerator"] = machine.accelerator
    if run.manifest.cpus:
        facts["CPUs"] = str(run.manifest.cpus)
    return facts


def again(runs: Sequence[Material]) -> Section | None:
    """The commands that repeat each run from its recipe."""
    parts: list[Part] = []
    for number, run in enumerate(runs, 1):
        if run.recipe is None:
            continue
        name, out = ("recipe.yaml", _AGAIN) if len(runs) == 1 else (f"{run.label}/recipe.yaml", f"{_AGAIN}-{number}")
        lines = [lasting_line(*each) + "\n" for each in _commands(run, run.recipe, name, out)]
        if lines:
            where = "With the recipe above as `recipe.yaml`:" if len(runs) == 1 else f"{run.label}:"
            parts += [Text(where), Code("".join(lines))]
    return Section("Do it again", parts) if parts else None


def _commands(run: Material, recipe: Recipe, name: str, out: str) -> list[list[str]]:
    commands = []
    made_by = "train" if run.stage("train") else "build-graph" if run.stage("graph") else None
    if made_by:
        commands.append([made_by, "--recipe", name, "--out", out])
    for command, folder, outcomes in (("eval", "eval", run.evaluations), ("merge", "merged", run.exports)):
        # Of a grid's base nothing is trained, and no command alone leads to what it scored.
        others = [run.recipes.get(f"{folder}/{outcome}", recipe) for outcome in outcomes if run.stage("train")]
        commands += [[command, "--run", out, *_set(differences(recipe, other))] for other in others]
    if grid := run.stage("ablation"):
        start = ["--run", out] if commands else ["--recipe", name, "--out", out]
        commands.append(["ablate", *start, *_set(grid.overridden)])
    return commands


def _set(changed: Mapping[str, Any]) -> list[str]:
    values = {key: json.dumps(value, ensure_ascii=False) for key, value in changed.items()}
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
