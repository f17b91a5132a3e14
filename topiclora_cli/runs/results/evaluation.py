"""What an evaluation found: scores of the tuned model beside its base, by task and by question, and the routing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from topiclora_cli.runs.results.entropy import ByEntropy

ByQuestion = Mapping[str, Mapping[str, Sequence[float]]]  # task -> lm-eval's key of a metric -> one value a question


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A metric of the base and of the tuned model, and tuned minus base, each with its standard error.

    unit: `share` from 0 to 1, another one, or empty for a plain number. None: no base, or lm-eval gives no error; of
    higher_is_better, unknown. The error of a difference is that of the questions' own differences.
    """

    unit: str
    higher_is_better: bool | None
    base: float | None
    base_stderr: float | None
    tuned: float
    tuned_stderr: float | None
    delta: float | None
    delta_stderr: float | None


@dataclass(frozen=True, kw_only=True)
class TaskScores(Compared):
    """A task or group by its headline metric, over `count` questions.

    depth: how many groups it stands in, as listed. counted: whether the mean takes it. filter: lm-eval's filter of the
    answers. metrics: all of them, by lm-eval's key, say `exact_match,strict-match`.
    """

    task: str
    group: bool
    depth: int
    counted: bool
    metric: str
    filter: str
    count: int
    metrics: Mapping[str, Compared]

    @property
    def key(self) -> str:
        """lm-eval's key of the headline metric."""
        return f"{self.metric},{self.filter}"


@dataclass(frozen=True, kw_only=True)
class MeanScores(Compared):
    """The unweighted mean of the tasks `of`, whose metrics are of one kind."""

    of: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PartScores(Compared):
    """The `count` questions of a part, of whichever task, by their tasks' headline metrics.

    low, high: ends of the difference's 95 % interval; None without a base, and of fewer than FEWEST questions.
    """

    part: str
    count: int
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ScoresByTopic:
    """Scores of the questions of `tasks` by their topic, and by the expert that took them where something is routed."""

    tasks: tuple[str, ...]
    topics: tuple[PartScores, ...]
    experts: tuple[PartScores, ...]


@dataclass(frozen=True)
class RoutingReport:
    """Routing of a set of tagged examples, averaged over the adapted linears that share a number of experts.

    by_topic: topic -> mean gates (E,); experts_in_use: 1 / sum_e load_e^2 of the load over all of these layers, from 1
    to E, which layers of one expert each may bring about, too; entropy: of one example's gates over ln E;
    mutual_information: nats between topic and expert; largest_load: share of the busiest expert; on: what the examples
    are, in words.
    """

    by_topic: Mapping[str, Sequence[float]]
    experts_in_use: float
    entropy: float
    mutual_information: float
    largest_load: float
    on: str = "held-out examples"


@dataclass(frozen=True)
class EvalSummary:
    """One evaluation, as `eval/NAME/summary.json` holds it.

    mean: None where the tasks' metrics are of different kinds. failed: task -> reason, for what could not be scored.
    notes: what to know before the scores are set beside others, a sentence or two each.
    """

    name: str
    mean: MeanScores | None
    tasks: tuple[TaskScores, ...]
    failed: Mapping[str, str] = field(default_factory=dict)
    routing: RoutingReport | None = None
    notes: tuple[str, ...] = ()
    by_topic: ScoresByTopic | None = None
    by_entropy: ByEntropy | None = None


@dataclass(frozen=True)
class QuestionScores:
    """What each question adds to every metric that is a mean over questions, in the questions' order.

    As `eval/NAME/questions.json` holds it; base is None where it was not measured. entropy: task -> that of each
    question's topics by the run's graph, in nats; None where it was not asked for, or there is no graph. topics: task
    -> of each question what it is about, by its data or by that graph; None where it was not asked for.
    """

    tuned: ByQuestion
    base: ByQuestion | None = None
    entropy: Mapping[str, Sequence[float]] | None = None
    topics: Mapping[str, Sequence[Sequence[str]]] | None = None
