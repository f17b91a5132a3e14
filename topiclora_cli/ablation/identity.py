"""What makes a cell the one that a grid asks for: its settings, whose digest stands beside its recipe.

Reading a recipe takes long, and a grid has hundreds. A digest says that the settings are the same; that they are not,
only the recipe itself can say, which a later version may fill in otherwise.
"""

from hashlib import sha256
from pathlib import Path
from typing import Any

from topiclora_cli.ablation.grid import Cell
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import Recipe, dump_recipe
from topiclora_cli.runs.files import read_json, sha256_file, write_json
from topiclora_cli.runs.run import RECIPE, RunDir

IDENTITY = "cell.json"


def create_cell(folder: Path, cell: Cell) -> RunDir:
    """Make the cell's run; raises TopicLoraError where its folder holds something else."""
    path = folder / cell.folder
    try:
        run = RunDir.create(path, recipe_yaml=dump_recipe(cell.recipe), name=cell.name, seed=cell.seed)
    except TopicLoraError as error:
        if not path.exists():
            raise
        raise TopicLoraError(error.message, f"Delete {path}, and the cell is run anew.") from None
    values = {"name": cell.name, "seed": cell.seed, "tuned": dict(cell.tuned), "settings": digest(cell)}
    write_json(run.path / IDENTITY, {**values, "recipe": sha256_file(run.path / RECIPE)})
    return run


def is_same(path: Path, cell: Cell) -> bool:
    """Whether a cell's folder is known, without its recipe being read, to have the settings that are asked for."""
    if not (path / IDENTITY).is_file():
        return False
    known = read_json(path / IDENTITY, hint=f"Delete {path / IDENTITY}.")
    # Somebody may have changed the recipe since.
    return bool(known["settings"] == digest(cell) and known["recipe"] == sha256_file(path / RECIPE))


def digest(cell: Cell) -> str:
    """The sha256 of a cell's settings, the same for all cells that a grid may take for one another."""
    if cell.trained:
        text = cell.recipe.model_dump_json(exclude={"ablation"})
    else:
        text = cell.recipe.model_dump_json(include={"model", "data", "eval"}) + cell.recipe.train.precision
    return sha256(text.encode()).hexdigest()


def settings(recipe: Recipe, cell: Cell) -> dict[str, Any]:
    """What a recipe says that bears on the cell; of the base, which is not trained, what it is asked."""
    if not cell.trained:
        return {**recipe.model_dump(include={"model", "data", "eval"}), "precision": recipe.train.precision}
    # The grid that a cell is part of, and who said what, change nothing in it.
    return recipe.model_dump(exclude={"ablation"})
