"""Large counts have separators in every table of the terminal and of a report."""

import io
import re

from rich.console import Console

from topiclora_cli.reporting.drawn import as_rich
from topiclora_cli.reporting.scores import eval_table
from topiclora_cli.reporting.terminal import merge_table, train_table
from topiclora_cli.runs.results.evaluation import EvalSummary, TaskScores
from topiclora_cli.runs.results.export import Export
from topiclora_cli.runs.results.training import TrainResult

LARGE = 1234567
FOUND = {"unit": "share", "higher_is_better": True, "base": None, "base_stderr": None, "tuned": 0.5}
TASK = TaskScores(
    **FOUND,
    tuned_stderr=None,
    delta=None,
    delta_stderr=None,
    task="quiz",
    group=False,
    depth=0,
    counted=True,
    metric="acc",
    filter="none",
    count=LARGE,
    metrics={},
)


def drawn(table):
    console = Console(width=120, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


def test_counts_have_separators():
    training = TrainResult(1, LARGE, LARGE, LARGE, LARGE, final={})
    export = Export("mean", 0.1, 0.9, LARGE, "held-out examples", LARGE, LARGE)
    tables = [train_table(training), merge_table(export), as_rich(eval_table(EvalSummary("quiz", None, (TASK,))))]
    for table in tables:
        text = drawn(table)
        assert "1,234,567" in text
        assert not re.search(r"(?<![.\d])\d{4}", text), text
