"""What an evaluation of several models found: each beside the first, on the same questions."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from topiclora_cli.runs.results.evaluation import EvalSummary, PartScores


@dataclass(frozen=True)
class Tested:
    """The difference from the first model on the questions that both answered, with its 95 % interval.

    p: two-sided, by `test`; p_holm: adjusted over the tasks of a model, None for groups, which are no further tests.
    """

    low: float
    high: float
    p: float
    test: str
    p_holm: float | None


@dataclass(frozen=True)
class Measured:
    """A model's scores, as `tuned`, beside the first model's, as `base`; tests: by task or group.

    asked: what was named. content: the digest of what its scores are kept under.
    """

    label: str
    asked: str
    content: str
    scores: EvalSummary
    tests: Mapping[str, Tested] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelsByTopic:
    """Scores of the questions of `tasks` by their topic: the data's own, or that of the graph of the run `graph`.

    models: by label each model's scores, as `tuned`, beside the first model's, as `base`, the largest topic first.
    """

    graph: str
    tasks: tuple[str, ...]
    models: Mapping[str, tuple[PartScores, ...]]


@dataclass(frozen=True)
class ModelScores:
    """Several models side by side, as `eval/NAME/models.json` holds them; the first is what the others are beside.

    by_topic: None where that was not asked for, or no task has a share.
    """

    name: str
    models: tuple[Measured, ...]
    by_topic: ModelsByTopic | None = None

    @property
    def failed(self) -> dict[str, str]:
        """Model and task -> reason, for what could not be scored."""
        return {f"{each.label}: {task}": why for each in self.models for task, why in each.scores.failed.items()}
