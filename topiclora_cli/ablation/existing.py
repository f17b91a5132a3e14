"""What is asked of a run that is there: added to the grid that its recipe describes, or meant for one call."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from topiclora_cli.ablation.asking import Asked, ask, has_cells
from topiclora_cli.ablation.called import shared_by_all
from topiclora_cli.ablation.grid import UNNEEDED
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import Recipe, altered, differences, dump_recipe, load_recipe, parse_override
from topiclora_cli.recipe.paths import anchored_overrides
from topiclora_cli.recipe.spelling import respelt_changes
from topiclora_cli.runs.commands import command_line
from topiclora_cli.runs.files import write_text
from topiclora_cli.runs.run import RECIPE, RunDir


@dataclass(frozen=True)
class AskedOfRun:
    """kept: the recipe as the run is to keep it. now: as this call takes it. notes: what a reader would not expect."""

    kept: Recipe
    now: Recipe
    notes: list[str]
    changed: bool


def ask_run(run: RunDir, asked: Asked, overrides: Sequence[str] = ()) -> AskedOfRun:
    """The run's recipe with what is asked; a choice among its seeds, and `overrides` of its section `ablation`, are
    this call's alone, and other overrides are all cells', as long as there are none.

    Raises TopicLoraError as `ask`, as load_recipe, and for an override by which the next cells would be others than
    those that are there.
    """
    stored = load_recipe(str(run.path / RECIPE))
    said = respelt_changes([parse_override(text) for text in overrides], where="--set")
    common = {key: value for key, value in said if key.partition(".")[0] != "ablation"}
    settled = stored
    if common:
        altered(stored, common.items(), where="--set")  # raises for what no recipe can have
        common = anchored_overrides(shared_by_all(stored), common)
        wanted = _in_common(stored, common)
        if other := differences(_of_cells(stored), _of_cells(wanted)):
            if has_cells(run.path / "ablation"):
                raise _too_late(run, stored, wanted, other, overrides)
            settled = wanted
    kept, notes = ask(settled, asked, folder=run.path / "ablation")
    changes = [(key, common.get(key, value)) for key, value in said]
    if asked.seeds:
        # What is tuned is chosen at the first seed, whichever come after it.
        first = kept.ablation.seeds[:1] if kept.ablation.tune else []
        changes.append(("ablation.seeds", list(dict.fromkeys([*first, *asked.seeds]))))
    now = altered(kept, changes, where="--set") if changes else kept
    return AskedOfRun(kept, now, notes, changed=kept.said != stored.said)


def keep(run: RunDir, found: AskedOfRun) -> None:
    """Write what was asked into the recipe of a run whose lock is held."""
    if found.changed:
        write_text(run.path / RECIPE, dump_recipe(found.kept))


def _in_common(recipe: Recipe, common: Mapping[str, Any]) -> Recipe:
    """The recipe with these values for all cells; what the run itself was trained with stays as it was."""
    there = recipe.ablation.overrides
    rest = {key: there[key] for key in there if not any(f"{key}.".startswith(f"{other}.") for other in common)}
    return altered(recipe, [("ablation.overrides", {**rest, **common})], where="--set")


def _of_cells(recipe: Recipe) -> Recipe:
    """What of a recipe its cells share and are told apart by."""
    return altered(shared_by_all(recipe), {"seed": 0, "ablation": {}, **UNNEEDED}.items(), where="--set")


def _too_late(
    run: RunDir, stored: Recipe, wanted: Recipe, other: Mapping[str, Any], overrides: Sequence[str]
) -> TopicLoraError:
    """other: what cells would have otherwise than those that are there."""
    before, common = differences(_of_cells(wanted), _of_cells(stored)), wanted.ablation.overrides
    key = next((key for key in common if key in other), next(iter(other)))
    again = [*overrides]
    if stored.ablation.overrides:  # which a new study has, too, and which go before what is said of it
        again.append(f"ablation.overrides={json.dumps(common)}")
    changes = [part for text in again for part in ("--set", text)]
    line = command_line("ablate", "--recipe", run.path / RECIPE, *changes, "--out", "NEW")
    return TopicLoraError(
        f"--set wants {key}: {other[key]!r}, and the run's cells have {before.get(key)!r}.",
        f"Begin a new study: {line}",
    )
