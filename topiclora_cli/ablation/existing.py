"""What is asked of a run that is there: added to the grid that its recipe describes, or meant for one call."""

from collections.abc import Sequence
from dataclasses import dataclass

from topiclora_cli.ablation.asking import Asked, ask
from topiclora_cli.recipe import Recipe, altered, dump_recipe, load_recipe, parse_override
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
    """The run's recipe with what is asked; `overrides` and a choice among its seeds are this call's alone.

    Raises TopicLoraError as `ask`, and as load_recipe.
    """
    stored = load_recipe(str(run.path / RECIPE))
    kept, notes = ask(stored, asked, folder=run.path / "ablation")
    changes = [parse_override(text) for text in overrides]
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
