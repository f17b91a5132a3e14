"""Questions of tasks behind changed prompts, the same at every call with the same seed."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

from topiclora_cli.evaluation.asking import Asked
from topiclora_cli.evaluation.probes import text as texts

SHOTS = 2
TWO_TOPICS = "two-topics"
Change = Callable[[str, Random], str | None]
_OF_TEXT: dict[str, Change] = {
    "truncate": texts.truncate,
    "distractor": texts.distract,
    "typos": texts.mistype,
    "shuffle-sentences": texts.shuffle_sentences,
}


def probed(questions: Sequence[Asked], topics: Sequence[Sequence[str]], probe: str, *, seed: int) -> list[Asked | None]:
    """Every question under a probe, None where it does not apply; topics are those of each question."""
    found: list[Asked | None] = []
    for at, question in enumerate(questions):
        chance = _chance(seed, probe, question)
        if probe in _OF_TEXT:
            found.append(_with_text(question, _OF_TEXT[probe](question.text, chance) if question.text else None))
        elif probe == "permute-options":
            found.append(_permuted(question, chance))
        else:
            places = _shown_before(questions, topics, at, probe, chance)
            shown = (questions[place] for place in places)
            before = "".join(f"{other.text or other.prompt}{other.answer}\n\n" for other in shown)
            found.append(_after(question, before) if places else None)
    return found


def joined_with(questions: Sequence[Asked], topics: Sequence[Sequence[str]], *, seed: int) -> list[int | None]:
    """The place of the question that the probe `two-topics` puts before each, None where it does not apply."""
    found = []
    for at, question in enumerate(questions):
        places = _shown_before(questions, topics, at, TWO_TOPICS, _chance(seed, TWO_TOPICS, question))
        found.append(places[0] if places else None)
    return found


def _chance(seed: int, probe: str, question: Asked) -> Random:
    return Random(f"{seed} {probe} {question.task} {question.place}")


def _with_text(question: Asked, text: str | None) -> Asked | None:
    """The question with another text in the same place of its contexts."""
    if text is None or any(question.text not in context for context in question.contexts):
        return None
    contexts = []
    for context in question.contexts:
        before, _, after = context.rpartition(question.text)
        contexts.append(before + text + after)
    return replace(question, text=text, contexts=tuple(contexts))


def _permuted(question: Asked, chance: Random) -> Asked | None:
    if question.kind != "multiple_choice" or not question.text or len(set(question.contexts)) > 1:
        return None
    found = texts.permute_options(question.text, [str(each).strip() for each in question.continuations], chance)
    if found is None:
        return None
    changed = _with_text(question, found[0])
    return None if changed is None else replace(changed, order=tuple(found[1]))


def _shown_before(
    questions: Sequence[Asked], topics: Sequence[Sequence[str]], at: int, probe: str, chance: Random
) -> list[int]:
    """The places of other questions, to stand with their answers before the one at that place; none for too few."""
    question = questions[at]
    others = [
        place
        for place, other in enumerate(questions)
        if other.answer
        and place != at
        and ((other.task == question.task) if probe == "fewshot" else not set(topics[place]) & set(topics[at]))
    ]
    count = SHOTS if probe == "fewshot" else 1
    return chance.sample(others, count) if len(others) >= count else []


def _after(question: Asked, before: str) -> Asked | None:
    if question.text:
        return _with_text(question, before + question.text)
    return question.with_contexts([before + context if context else context for context in question.contexts])
