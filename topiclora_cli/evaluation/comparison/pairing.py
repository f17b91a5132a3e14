"""The questions that several sets of answers share, and the refusal to pair what is not the same."""

from collections.abc import Sequence

from topiclora_cli.errors import TopicLoraError, nearest
from topiclora_cli.evaluation.comparison.answers import Facts, TaskAnswers
from topiclora_cli.evaluation.comparison.places import Place


def common_tasks(places: Sequence[Place], wanted: Sequence[str]) -> list[str]:
    """Tasks that every place has; raises TopicLoraError where one lacks any of another's, or of those wanted.

    A wanted group stands for its tasks.
    """
    known = list(dict.fromkeys(task for place in places for task in place.answers.files))
    members = {name: tasks for place in places for name, (tasks, _) in place.answers.groups.items()}
    every = list(dict.fromkeys(task for name in wanted for task in members.get(name, [name]))) or known
    for task in every:
        if task not in known:
            raise TopicLoraError(f"None of the runs has answers to the task {task}.", nearest(task, [*known, *members]))
    for place in places:
        if missing := [task for task in every if task not in place.answers.files]:
            raise TopicLoraError(
                f"{place.label} lacks the tasks {', '.join(missing)}.",
                "Compare those that all have with --tasks, or name another evaluation with RUN:EVALUATION.",
            )
    return every


def common_questions(name: str, places: Sequence[Place], read: Sequence[TaskAnswers]) -> list[str]:
    """The questions that all asked, in the first one's order: those of the one that asked fewest.

    Raises TopicLoraError where that one asked others too, and where prompts, right answers or versions differ.
    """
    first = read[0]
    for place, answers in zip(places[1:], read[1:], strict=True):
        if answers.questions.keys() <= first.questions.keys() or first.questions.keys() <= answers.questions.keys():
            continue
        only = [len(one.questions.keys() - two.questions.keys()) for one, two in ((first, answers), (answers, first))]
        raise TopicLoraError(
            f"{name}: {only[0]} questions are only in {places[0].label}, {only[1]} only in {place.label}.",
            "Evaluate both on the same questions.",
        )
    common = [each for each in first.questions if all(each in answers.questions for answers in read)]
    if len(common) != min(len(answers.questions) for answers in read):
        raise TopicLoraError(f"{name}: the runs asked different questions.", "Evaluate all on the same questions.")
    for place, answers in zip(places[1:], read[1:], strict=True):
        _same(name, places[0], place, first, answers, common)
    return common


def _same(name: str, one: Place, two: Place, first: TaskAnswers, second: TaskAnswers, common: Sequence[str]) -> None:
    told, other = one.answers.facts(name), two.answers.facts(name)
    who = f"{name}: {one.label} and {two.label}"
    if told.version != other.version:
        raise TopicLoraError(
            f"{who} have versions {told.version} and {other.version} of the task.", "Evaluate both with one."
        )
    for place, what in enumerate(("prompt", "right answer")):
        if differing := sum(first.questions[each][place] != second.questions[each][place] for each in common):
            reason = _reason(told, other)
            raise TopicLoraError(
                f"{who} differ in the {what} of {differing} questions{reason}.", "Evaluate both in the same way."
            )


def _reason(told: Facts, other: Facts) -> str:
    if told.shots != other.shots:
        return f" ({told.shots} and {other.shots} shots)"
    return " (another chat template)" if told.template != other.template else ""
