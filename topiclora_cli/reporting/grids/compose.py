"""What is reported of a grid, in which order."""

from collections.abc import Sequence
from dataclasses import dataclass

from topiclora_cli.recipe import Recipe
from topiclora_cli.reporting.by_entropy import ABOUT as ENTROPY
from topiclora_cli.reporting.by_entropy import by_entropy_tables
from topiclora_cli.reporting.formats import metric_label
from topiclora_cli.reporting.grids import beside, told
from topiclora_cli.reporting.grids.costs import costs
from topiclora_cli.reporting.grids.effects import effects
from topiclora_cli.reporting.grids.probes import probes
from topiclora_cli.reporting.grids.scores import scores_table, tasks_table
from topiclora_cli.reporting.sections import Part, Report, Section, Text
from topiclora_cli.runs.results.ablation import CellScore, GridScores
from topiclora_cli.runs.results.cells import CellLine


@dataclass(frozen=True)
class Extent:
    """How many cells a grid has, how many runs they are over their seeds, and how many of these are scored."""

    cells: int
    runs: int
    scored: int

    @property
    def complete(self) -> bool:
        """Whether nothing is left to score."""
        return self.scored == self.runs

    @property
    def words(self) -> str:
        """In a sentence."""
        state = "all" if self.complete else f"{self.scored} of {self.runs}"
        return f"Scored: {state} runs of {self.cells} cells."


def grid_report(
    found: GridScores, extent: Extent, recipe: Recipe, recipes: Sequence[Recipe], lines: Sequence[CellLine] = ()
) -> Report:
    """The report of a grid of which a cell at least is scored.

    recipe: the one that the grid is made of; recipes: of its cells. lines: how far each run has come.
    """
    sections = [
        _scores(found, recipes),
        told.unfinished(lines),
        *beside.differences(found),
        beside.standings(found),
        _tasks(found.cells),
        *effects(found, recipe),
        costs(found),
        told.topics(found),
        _entropy(found),
        probes(found.probes, found.reference),
        told.tuning(found.cells, list(edge_warnings(found.cells))),
        told.questions(_about(recipe, found.cells)),
        told.sources(found.cells),
    ]
    lead = extent.words
    if not extent.complete:
        lead += " What is said below may change as others finish."
    return Report("Ablation", lead, [], [section for section in sections if section])


def edge_warnings(scores: Sequence[CellScore]) -> list[str]:
    """A line for every value that was best at the end of its list."""
    return [
        f"Warning: {s.name} is best at the end of what was tried: {key} {s.tuned[key]:g}. Try one beyond it."
        for s in scores
        for key in s.edges
    ]


def _scores(found: GridScores, recipes: Sequence[Recipe]) -> Section:
    scores = found.cells
    label = metric_label(scores[0].metric, scores[0])
    about = (
        f"{label}: mean over tasks, mean and standard deviation over seeds; `vs full` is paired by seed. "
        "`KL` is the routing loss's last training value, `MI` the mutual information of topic and expert in nats."
    )
    parts: list[Part] = [Text(about), scores_table(scores), *told.left_out(scores)]
    if found.reference not in {s.name for s in scores}:
        parts.append(Text(f"{found.reference}, the reference, is not scored yet, and nothing is compared with it."))
    parts.append(Text(told.lengths(recipes)))
    return Section("Scores", parts)


def _tasks(scores: Sequence[CellScore]) -> Section | None:
    table = tasks_table(scores)
    about = "Mean and standard deviation over seeds; the best of each task is strong."
    return Section("Scores by task", [Text(about), table]) if table else None


def _entropy(found: GridScores) -> Section | None:
    tables = by_entropy_tables(found.by_entropy)
    return Section("Along the entropy of topics", [Text(ENTROPY), *tables]) if tables else None


def _about(recipe: Recipe, scores: Sequence[CellScore]) -> dict[str, str]:
    known = recipe.ablation.about
    return {s.name: known[s.name] for s in scores if s.name in known}
