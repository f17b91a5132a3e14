"""The recipe's section on what is asked of the model, and the questions of its own."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from topiclora_cli.recipe.section import Section

Probe = Literal[
    "truncate", "distractor", "permute-options", "typos", "shuffle-sentences", "fewshot", "two-topics"
]  # what each does: evaluation/probes
SEEDS = 4  # of Python, NumPy, torch and the examples shown, in lm-eval's order


class QuestionsSection(Section):
    """Multiple-choice questions of the recipe's own, put as its training examples are: by `data.prompt`, of several
    sources the first's.
    """

    source: str
    """Where the questions lie: a hub id, a folder or a file, as of data.source."""
    config: str | None = None
    """The hub's configuration of the set, as of data.config."""
    split: str = "train"
    """The split of the set, as of data.split."""
    filter: str | None = None
    """Jinja expression over a row's columns; questions where it is false are left out. Unset, data.filter."""
    choices: str = "choices"
    """Jinja expression over a row's columns, the list of its choices; the right one is what `data.completion` makes of
    the row."""
    by: str | None = None
    """A column, of which each value is a task of its own; unset, all questions are one task."""
    limit: int | None = Field(default=None, ge=1)
    """At most so many questions of each task; unset, all."""


class EvalSection(Section):
    """What lm-evaluation-harness is asked to run."""

    tasks: list[str] = Field(default=["topiclora_quickstart"], min_length=1)
    """Names of lm-eval's tasks or groups, of ours, or of those under `include_path`; or files, each with a task."""
    limit: Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)] | None = None
    """At most so many questions of each task or, below 1, that share of them; unset, all."""
    samples: dict[str, list[int]] | str | None = None
    """Which questions of which task to ask, by their place from 0: a mapping or a JSON file of one, as lm-eval's
    --samples. A task that it does not name is asked whole."""
    num_fewshot: int | None = Field(default=None, ge=0)
    """Worked examples in the prompt; unset, as each task says."""
    batch_size: Annotated[int, Field(ge=1)] | Annotated[str, Field(pattern=r"^auto(:[1-9]\d*)?$")] = 16
    """Questions scored at once; `auto` tries how many the memory holds, `auto:N` does so N times on the way."""
    include_path: str | None = None
    """A folder of more task files, in lm-eval's YAML."""
    datasets_dir: str | None = None
    """A folder of copies `ORG/NAME`, from which every hub data set of a task is read; unset, from the hub."""
    system_instruction: str | None = None
    """What the system says before each question."""
    chat_template: bool | str = False
    """Put questions through the tokenizer's chat template, or through that of its templates which is called so."""
    fewshot_as_multiturn: bool = True
    """Under a chat template, show worked examples as turns of a conversation, not as one turn."""
    gen_kwargs: dict[str, Any] | str | None = None
    """Settings of generation that go before each task's own: a mapping, or as lm-eval writes it, `temperature=0.7,
    do_sample=true`."""
    seed: int | list[int | None] = [0, 1234, 1234, 1234]
    """The seeds of Python, NumPy, torch and the worked examples, or one for all; null leaves one as it is."""
    base: bool = True
    """Score the untrained base, too; a base that has been scored on the same questions is not scored again."""
    metrics: list[str] | dict[str, str] = []
    """What to go by in tables and means: a list of which each task takes the first that it has, or a mapping from task
    (or group) to metric, `acc` or, with lm-eval's filter, `exact_match,strict-match`. Unset, a task goes by acc_norm,
    acc or exact_match, whichever it has first, else by the first metric it lists. All are stored."""
    predict_only: bool = False
    """Write the answers down and score none."""
    by_topic: bool = False
    """Sort the scores of questions by the topics of the run's graph, and by the experts that took them, too; those of
    several models (`--model`) by the graph of the run named first that has one."""
    by_entropy: bool = False
    """Show scores by how unsure the run's graph is of each question's topics, the entropy of p(topic | question), in
    quarters and as a slope, too."""
    probes: list[Probe] = []
    """Changes of prompts under which questions are asked again, of every cell of a grid, too: what each does to answers
    and to routing."""
    probe_questions: int = Field(default=10, ge=1)
    """Questions of each task that are asked under every probe."""
    unsafe_code: bool = False
    """Leave to run code that the model writes, for tasks that do."""
    backend: Literal["hf", "vllm"] = "hf"
    """What runs the model: transformers, or vLLM, which knows exports and no mixture."""
    backend_args: dict[str, Any] | str | None = None
    """What vLLM's engine is made with: a mapping, or as lm-eval writes it, `max_model_len=2048`."""
    questions: QuestionsSection | None = None
    """Questions of the recipe's own, which the task `topiclora_questions` asks."""

    @field_validator("seed")
    @classmethod
    def _one_or_four(cls, seed: int | list[int | None]) -> int | list[int | None]:
        if isinstance(seed, list) and len(seed) != SEEDS:
            raise ValueError(f"one seed, or {SEEDS}: of Python, NumPy, torch and the worked examples")
        return seed

    @model_validator(mode="after")
    def _all_or_some(self) -> "EvalSection":
        if self.limit is not None and self.samples is not None:
            raise ValueError("limit and samples both say which questions to ask; leave out one")
        return self
