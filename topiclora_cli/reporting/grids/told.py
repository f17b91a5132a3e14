"""What is to be known of a grid beside its scores: questions, topics, values tried, what failed, and sources."""

from collections.abc import Sequence

from topiclora_cli.recipe import Recipe
from topiclora_cli.reporting.formats import duration, measure, percent, points
from topiclora_cli.reporting.grids.words import compared, values
from topiclora_cli.reporting.sections import Part, Section, Text
from topiclora_cli.reporting.table import Cell, Table, columns, row
from topiclora_cli.runs.results.ablation import CellScore, GridScores, TopicScore
from topiclora_cli.runs.results.cells import CellLine
from topiclora_cli.runs.results.interval import FEWEST

_DIGEST = 12  # characters
_BAD = ("failed", "diverged")


def questions(about: dict[str, str]) -> Section | None:
    """What each cell is to answer, by its name."""
    if not about:
        return None
    return Section(
        "What the cells ask", [Table("", columns("cell", "question"), [row(*each) for each in about.items()])]
    )


def unfinished(lines: Sequence[CellLine]) -> Section | None:
    """The cells that failed, with the reasons."""
    bad = [line for line in lines if line.state in _BAD]
    if not bad:
        return None
    rows = [row(line.folder, line.state, line.stage or "-", line.attempt or "-", line.reason) for line in bad]
    table = Table("", columns("run", "state", "in", "attempt", "reason"), rows)
    return Section("What failed", [Text("Try these again with `--retry-failed`."), table])


def left_out(scores: Sequence[CellScore]) -> list[Part]:
    """A line on every cell that is compared with nothing."""
    return [Text(f"{s.name} is compared with nothing: {s.odd}.") for s in scores if s.odd]


def topics(found: GridScores) -> Section | None:
    """Cells by the topics of questions."""
    cells = [s for s in compared(found.cells) if s.topics]
    if not cells:
        return None
    names = list(dict.fromkeys(topic.topic for s in cells for topic in s.topics))
    rows = []
    for name in names:
        of_it = [next((topic for topic in s.topics if topic.topic == name), None) for s in cells]
        counts = sorted({topic.count for topic in of_it if topic})
        shown = [Cell(_of_topic(topic) if topic else "-") for topic in of_it]
        rows.append([*row(name, " to ".join(dict.fromkeys(str(each) for each in (counts[0], counts[-1])))), *shown])
    about = _by_one_graph(found) if found.sorted_by is not None else _by_own_graphs(found)
    return Section("By topic", [Text(about), Table("", columns("topic", "n", *(s.name for s in cells), right=1), rows)])


def _of_topic(topic: TopicScore) -> str:
    """Shares, in percent and points."""
    if topic.difference is None:
        return percent(topic.mean)
    ends = "" if topic.low is None else f" [{percent(topic.low)}, {percent(topic.high)}]"
    return f"{percent(topic.mean)} ({points(topic.difference)}{ends})"


def _by_one_graph(found: GridScores) -> str:
    return (
        f"Means over seeds and, in brackets, the difference from {found.reference} on the same questions and seeds, "
        f"with 95 % intervals over {FEWEST} questions or more; of many intervals one in twenty leaves out 0 by chance. "
        f"A question's topic is its data's own, else the one that the graph of {found.sorted_by} finds it most about, "
        "at the first seed that has one: all cells are sorted by it."
    )


def _by_own_graphs(found: GridScores) -> str:
    return (
        f"Means over seeds and, in brackets, the difference from {found.reference} over seeds in which both have as "
        "many questions of a topic. A question's topic is its data's own, else the one that each run's graph finds it "
        "most about, which differs between graphs. These evaluations did not keep what each question is about, so that "
        "differences have no intervals."
    )


def tuning(scores: Sequence[CellScore], warnings: Sequence[str]) -> Section | None:
    """The values that were tried, with their losses on held-out examples; warnings: lines below them."""
    rows = [
        row(s.name, values(each.values), _loss(each.eval_loss), "yes" if each.values == s.tuned else "")
        for s in scores
        for each in s.tried
    ]
    if not rows:
        return None
    about = "The loss on examples held out of training, in nats per answer token, at the first seed."
    table = Table("", columns("cell", "values", "held-out loss", "chosen"), rows)
    return Section("Values tried", [Text(about), table, *map(Text, warnings)])


def sources(scores: Sequence[CellScore]) -> Section | None:
    """Which run each number comes from."""
    rows = [
        row(
            s.name,
            run.seed,
            measure(run.mean, s.unit),
            run.folder,
            run.evaluation,
            run.settings[:_DIGEST],
            "-" if run.cost.train_seconds is None else duration(run.cost.train_seconds),
        )
        for s in scores
        for run in s.runs
    ]
    if not rows:
        return None
    about = (
        "Folders are those beside this report. Each has the recipe that it was made by, `recipe.yaml`, whose digest "
        "stands here, and in its evaluation what every question adds, `questions.json`; `scores.csv` has a row for "
        "every task."
    )
    heads = ("cell", "seed", "score", "run", "evaluation", "settings", "training")
    return Section("Where the numbers come from", [Text(about), Table("", columns(*heads), rows)])


def lengths(recipes: Sequence[Recipe]) -> str:
    """How long cells were trained, and what they were asked."""
    trains = [recipe.train for recipe in recipes]
    found = sorted({f"{t.max_steps} steps" if t.max_steps else f"{t.epochs:g} epochs" for t in trains})
    return f"Trained for {', '.join(found)}; evaluated on {', '.join(recipes[0].eval.tasks)}."


def _loss(value: float | None) -> str:
    return "diverged" if value is None else f"{value:.4f}"
