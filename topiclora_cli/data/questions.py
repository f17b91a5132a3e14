"""Multiple-choice questions put as training examples are: the same prompt, and a choice as its completion."""

from collections.abc import Iterator
from dataclasses import dataclass

from topiclora_cli.data.draw import at_most
from topiclora_cli.data.missing import Missing, MissingValue, Names
from topiclora_cli.data.reading import kind_of
from topiclora_cli.data.row import as_row
from topiclora_cli.data.sources import open_source
from topiclora_cli.data.templates import condition, expression, template
from topiclora_cli.data.written import written
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe.data import DataSection, SourceSection
from topiclora_cli.recipe.evaluation import QuestionsSection

KEY = "eval.questions"
_LISTS = list | tuple | Missing  # what is missing says so itself
ALL = "all"  # the kind of questions that nothing parts into kinds


@dataclass(frozen=True)
class Question:
    """A multiple-choice question; `answer` is the right choice's place, `kind` the task that it belongs to."""

    prompt: str
    choices: tuple[str, ...]
    answer: int
    kind: str


def load_questions(data: DataSection, section: QuestionsSection) -> tuple[Question, ...]:
    """The questions, in the order of their source.

    Raises TopicLoraError for a source, column or template that does not do, a question whose right choice is none of
    its choices, and where none is left.
    """
    names = Names()
    questions = list(_read(data, section, names))
    names.refuse_unknown()
    if not questions:
        raise TopicLoraError(
            f"{KEY}.source {section.source!r} has no question for its filter.",
            f"Loosen {KEY}.filter, which is data.filter unless it is given.",
        )
    if section.limit is None:
        return tuple(questions)
    return tuple(questions[place] for place in at_most(section.limit, [(q.kind, q.prompt) for q in questions]))


def _read(data: DataSection, section: QuestionsSection, names: Names) -> Iterator[Question]:
    first = data.all_sources[0]
    chosen = section.filter if section.filter is not None else first.filter
    keep = condition(f"{KEY}.filter", chosen or "true", names)
    listed = expression(f"{KEY}.choices", section.choices, names)
    prompt = template("data.prompt", str(first.prompt), names)
    completion = template("data.completion", str(first.completion), names)
    source = SourceSection(
        source=section.source, config=section.config, prompt=first.prompt, completion=first.completion
    )
    for record in open_source(source, key=KEY, split=section.split):
        row = names.marked(record)
        try:
            if not keep(row):
                continue
            asked = as_row(prompt(row), completion(row))
            found = listed(row)
            choices = tuple(str(written(choice)) for choice in found) if isinstance(found, _LISTS) else ()
        except MissingValue:
            continue
        if asked.answer not in choices:
            raise TopicLoraError(
                f"{KEY}.choices: of a row data.completion makes {asked.answer[:40]!r}, which is none of its choices: "
                f"{str(list(choices))[:80]}.",
                f"Leave rows without choices out by {KEY}.filter, or mend the expression.",
            )
        kind = ALL if section.by is None else kind_of(row, section.by, f"{KEY}.by", names)
        yield Question(asked.prompt, choices, choices.index(asked.answer), kind)
