"""The recipe's section on what is asked of the model, and the questions of its own."""

from pydantic import Field

from topiclora_cli.recipe.section import Section


class QuestionsSection(Section):
    """Multiple-choice questions of the recipe's own, put as its training examples are: by `data.prompt`.

    source, config, split: as of data. filter: a Jinja expression; unset, data.filter. choices: a Jinja expression over
    a row's columns, the list of its choices; the right one is what `data.completion` makes of the row. by: a column;
    each of its values is a task. limit: at most so many of each.
    """

    source: str
    config: str | None = None
    split: str = "train"
    filter: str | None = None
    choices: str = "choices"
    by: str | None = None
    limit: int | None = Field(default=None, ge=1)


class EvalSection(Section):
    """What lm-evaluation-harness is asked to run; `chat_template` puts questions through the tokenizer's.

    metrics: what to go by in tables and means, a list of which each task takes the first that it has, or a mapping from
    task (or group) to metric; `acc` or, with lm-eval's filter, `exact_match,strict-match`. Unset, a task goes by
    acc_norm, acc or exact_match, whichever it has first, else by the first metric it lists. All are stored.
    unsafe_code: leave to run code that the model writes, for tasks that do.
    questions: those that the task `topiclora_questions` asks.
    """

    tasks: list[str] = Field(default=["topiclora_quickstart"], min_length=1)
    limit: int | None = Field(default=None, ge=1)
    num_fewshot: int | None = Field(default=None, ge=0)
    batch_size: int = Field(default=16, ge=1)
    include_path: str | None = None
    chat_template: bool = False
    base: bool = True
    metrics: list[str] | dict[str, str] = []
    unsafe_code: bool = False
    questions: QuestionsSection | None = None
