"""What stage 1 is asked to do: one frozen object that the fit, its checks and its comparisons share."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

from topiclora_cli.errors import TopicLoraError

if TYPE_CHECKING:
    from topiclora_cli.topics.experts import SeparationKind
    from topiclora_cli.topics.gnn import GnnKind
    from topiclora_cli.topics.store import TopicGraph

Control = Literal["none", "random_graph", "shuffled", "uniform", "groups", "kmeans", "spectral", "dmon"]
CONTROLS = get_args(Control)

# Separation is a mean over pairs of experts, so one coinciding pair among many weighs little: at 16 experts a weight
# of 5 left two of them 55 degrees apart, 10 gave 73. Consistency costs modularity, on BIG-bench with 8 experts 0.43 at
# 0, 0.38 at 2 and 0.36 at 3, and brings the information of task and expert from 0.66 to 0.79 and 0.80.
LOSS_WEIGHTS = {"link": 1.0, "modularity": 1.0, "balance": 1.0, "separation": 10.0, "consistency": 2.0}
DMON_WEIGHTS = {"link": 0.0, "modularity": 1.0, "balance": 1.0, "separation": 0.0, "consistency": 0.0}

# A graph keeps these as values of its own, and the rest as its config.
_OF_THE_GRAPH = ("num_experts", "seed")


class Ties(TypedDict):
    """What ties topics: the settings of graph.build_graph."""

    npmi_weight: float
    cosine_floor: float
    neighbours: int


@dataclass(frozen=True)
class GraphSettings:
    """How a topic graph is tied and learnt.

    Controls: random_graph (edges rewired), shuffled (S's rows permuted), uniform (S even), groups, kmeans and spectral
    (S not learnt), dmon (the losses of DMoN, arXiv 2006.16904, alone). assignment_temperature: of the softmax that
    assigns topics to experts. loss_weights: in place of entries of LOSS_WEIGHTS, or under dmon of DMON_WEIGHTS.
    """

    num_experts: int = 8
    gnn: "GnnKind" = "gcn"
    separation: "SeparationKind" = "margin"
    control: Control = "none"
    steps: int = 300
    width: int = 256
    layers: int = 2
    learning_rate: float = 1e-2
    assignment_temperature: float = 0.2
    loss_weights: Mapping[str, float] = field(default_factory=dict)
    npmi_weight: float = 0.5
    cosine_floor: float = 0.2
    neighbours: int = 8
    seed: int = 0

    @classmethod
    def of(cls, graph: "TopicGraph") -> "GraphSettings":
        """Those that a graph was learnt with."""
        kept = {name: value for name, value in graph.config.items() if name in cls.__dataclass_fields__}
        return cls(num_experts=graph.num_experts, seed=graph.seed, **kept)

    @property
    def weights(self) -> dict[str, float]:
        """The weight of every loss."""
        return {**(DMON_WEIGHTS if self.control == "dmon" else LOSS_WEIGHTS), **self.loss_weights}

    @property
    def ties(self) -> Ties:
        """What `build_graph` takes besides the taxonomy and its features."""
        return {"npmi_weight": self.npmi_weight, "cosine_floor": self.cosine_floor, "neighbours": self.neighbours}

    @property
    def config(self) -> dict[str, Any]:
        """What a graph keeps of them, with the weight of every loss."""
        kept = {name: value for name, value in asdict(self).items() if name not in _OF_THE_GRAPH}
        return kept | {"loss_weights": self.weights}

    def check(self, topics: int) -> None:
        """Raises TopicLoraError for settings that cannot be used, and for more experts than topics."""
        if self.num_experts < 2:
            raise TopicLoraError(f"{self.num_experts} experts leave nothing to route.", "Use at least 2 experts.")
        if self.num_experts > topics:
            raise TopicLoraError(
                f"{self.num_experts} experts for {topics} topics: some would have none.",
                "Use fewer experts or more topics.",
            )
        if self.control not in CONTROLS:
            raise TopicLoraError(f"Unknown control '{self.control}'.", f"Use one of {', '.join(CONTROLS)}.")
        if self.steps < 0 or self.assignment_temperature <= 0:
            raise TopicLoraError(
                f"steps={self.steps} and assignment_temperature={self.assignment_temperature} cannot be used.",
                "Use steps >= 0, temperature > 0.",
            )
        unknown = sorted(set(self.weights) - set(LOSS_WEIGHTS))
        if unknown:
            raise TopicLoraError(f"Unknown loss '{unknown[0]}'.", f"Known: {', '.join(LOSS_WEIGHTS)}.")
