"""What a grid would train, found without training and without writing anything."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from topiclora_cli.ablation.axes import as_text
from topiclora_cli.ablation.grid import Cell, count_runs, make_grid
from topiclora_cli.ablation.runner import check_grid
from topiclora_cli.ablation.states import CellState, cell_states, failed_lines
from topiclora_cli.adapters.counting import count_parameters
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import Recipe, with_experts
from topiclora_cli.reporting.grid_plan import GridPlan, PlannedCell
from topiclora_cli.runs.run import RunDir
from topiclora_cli.stages.build_graph import open_graph
from topiclora_cli.stages.counted import Skeleton, open_skeleton, parameters
from topiclora_cli.stages.plan import adapted_skeleton, count_examples
from topiclora_cli.training.arguments import count_steps

_NOWHERE = Path("no run yet")


def foresee(recipe: Recipe, run: RunDir | None, *, only: Sequence[str] | None = None, places: int = 1) -> GridPlan:
    """The plan of a recipe's grid, of which `run` has what is finished so far.

    only: names of cells. places: how many run at once. Raises TopicLoraError as make_grid, for an adapter that does not
    fit the model, and for a number of experts that only the topic graph can tell.
    """
    if recipe.adapter.graph_experts == "auto":
        if run is None or not run.is_done("graph"):
            raise TopicLoraError(
                "adapter.num_experts: auto needs the topic graph, which --dry-run does not build.",
                "Give a number: --set adapter.num_experts=8",
            )
        recipe = with_experts(recipe, open_graph(run).graph.num_experts)
    grid = make_grid(recipe, only=only)
    folder = run.path / "ablation" if run is not None else _NOWHERE
    check_grid(grid, folder)
    states = cell_states(grid, folder)
    counting = _Counting()
    cells = []
    for name in dict.fromkeys(cell.name for cell in grid):
        tried = [cell for cell in grid if cell.name == name and cell.seed == grid[0].seed]
        sizes = [counting.size(cell) for cell in tried]
        known = [size for size in sizes if size is not None]
        own = [state for state in states if state.name == name]
        cells.append(
            PlannedCell(
                name,
                _changes(recipe, tried[0]),
                sorted({total for total, _ in known}),
                sorted({activated for _, activated in known}),
                counting.steps(tried[0]),
                _runs(own, tried[0]),
            )
        )
    seconds, finished = _time(states, grid[0].seed)
    return GridPlan(
        cells,
        tuple(dict.fromkeys(cell.seed for cell in grid)),
        recipe.ablation.reference,
        tuning=count_runs(grid) - len({(cell.name, cell.seed) for cell in grid}),
        failed=tuple(failed_lines(states)),
        seconds=None if seconds is None else seconds / places,
        finished=finished,
    )


class _Counting:
    """Sizes and steps, each found once for all cells that have it in common."""

    def __init__(self) -> None:
        self._skeletons: dict[str, Skeleton | None] = {}
        self._sizes: dict[str, tuple[int, int] | None] = {}
        self._examples: dict[str, int | None] = {}

    def size(self, cell: Cell) -> tuple[int, int] | None:
        """Trainable parameters in all and per token; None where they are not known beforehand."""
        recipe = cell.recipe
        if not cell.trained:
            return 0, 0
        model = recipe.model_dump_json(include={"model"})
        if model not in self._skeletons:
            try:
                section = recipe.model
                self._skeletons[model] = open_skeleton(section.name, config_only=True, upcycle=section.upcycle)
            except TopicLoraError:
                self._skeletons[model] = None
        skeleton, adapter = self._skeletons[model], recipe.adapter
        if skeleton is None or adapter.layer == "xlora":
            return None
        key = recipe.model_dump_json(include={"model", "adapter"})
        if key not in self._sizes:
            try:
                self._sizes[key] = (
                    count_parameters(adapted_skeleton(recipe, skeleton.model))  # of the adapters that it is made of
                    if adapter.trained
                    else parameters(adapter, skeleton)
                )
            except TopicLoraError as error:
                raise TopicLoraError(f"ablation.cells.{cell.name}: {error.message}", error.hint) from None
        return self._sizes[key]

    def steps(self, cell: Cell) -> int | None:
        """Steps of its training; None where its examples cannot be read here."""
        recipe = cell.recipe
        if not cell.trained:
            return 0
        if recipe.train.max_steps:
            return recipe.train.max_steps
        key = recipe.model_dump_json(include={"seed", "model", "graph", "data", "eval"})
        if key not in self._examples:
            self._examples[key] = count_examples(recipe)
        examples = self._examples[key]
        return count_steps(recipe, examples) if examples else None


def _changes(recipe: Recipe, cell: Cell) -> str:
    if not cell.trained:
        return "not trained"
    overrides = recipe.ablation.all_cells[cell.name]
    return ", ".join(f"{key}={as_text(value)}" for key, value in overrides.items()) or "the recipe itself"


def _runs(states: Sequence[CellState], cell: Cell) -> dict[str, int]:
    """How many runs of a name are in each state; what is still searched stands for the trials to come."""
    found: Counter[str] = Counter(state.state for state in states)
    if cell.axes and any(state.folder == cell.folder for state in states):
        begun = sum(bool(state.tuned) and state.seed == cell.seed for state in states)
        found["waiting"] += max(0, cell.trials - begun - 1)
    return dict(found)


def _time(states: Sequence[CellState], first: int) -> tuple[float | None, int]:
    """Seconds that the rest takes one by one, and the finished runs that they are guessed from; None for want of any.

    A cell's own runs say it best; values that are tried only are not scored.
    """
    done = [state for state in states if state.state == "done" and state.seconds]
    tried = [state.seconds for state in states if state.state == "tried" and state.seconds]
    if not done:
        return None, 0
    left = 0.0
    for state in states:
        if state.state not in ("waiting", "running"):
            continue
        own = [each.seconds for each in done if each.name == state.name and each.seconds]
        others = [each.seconds for each in done if each.seconds]
        is_trial = bool(state.tuned) and state.seed == first and bool(tried)
        left += fmean(tried if is_trial else own or others)
    return left, len(done)
