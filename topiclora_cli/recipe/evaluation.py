"""The recipe's section on what is asked of the model, and the questions of its own."""

from pydantic import Field

from topiclora_cli.recipe.section import Section


class QuestionsSection(Section):
    """Multiple-choice questions of the recipe's own, put as its training examples are: by `data.prompt`."""

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
    """Names of lm-eval's tasks or groups, of ours, or of those under `include_path`."""
    limit: int | None = Field(default=None, ge=1)
    """At most so many questions of each task; unset, all."""
    num_fewshot: int | None = Field(default=None, ge=0)
    """Worked examples in the prompt; unset, as each task says."""
    batch_size: int = Field(default=16, ge=1)
    """Questions scored at once."""
    include_path: str | None = None
    """A folder of more task files, in lm-eval's YAML."""
    datasets_dir: str | None = None
    """A folder of copies `ORG/NAME`, from which every hub data set of a task is read; unset, from the hub."""
    chat_template: bool = False
    """Put questions through the tokenizer's chat template."""
    base: bool = True
    """Score the untrained base, too; a base that has been scored on the same questions is not scored again."""
    metrics: list[str] | dict[str, str] = []
    """What to go by in tables and means: a list of which each task takes the first that it has, or a mapping from task
    (or group) to metric, `acc` or, with lm-eval's filter, `exact_match,strict-match`. Unset, a task goes by acc_norm,
    acc or exact_match, whichever it has first, else by the first metric it lists. All are stored."""
    unsafe_code: bool = False
    """Leave to run code that the model writes, for tasks that do."""
    questions: QuestionsSection | None = None
    """Questions of the recipe's own, which the task `topiclora_questions` asks."""
