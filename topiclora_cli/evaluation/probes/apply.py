"""Questions of tasks behind changed prompts, the same at every call with the same seed."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

from topiclora_cli.evaluation.asking import Asked
from topiclora_cli.evaluation.probes import text as texts

SHOTS = 2
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
        chance = Random(f"{seed} {probe} {question.task} {question.place}")
        if probe in _OF_TEXT:
            found.append(_with_text(question, _OF_TEXT[probe](question.text, chance) if question.text else None))
        elif probe == "permute-options":
            found.append(_permuted(question, chance))
        else:
            before = _shown_before(questions, topics, at, probe, chance)
            found.append(_after(question, before))
    return found


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
) -> str | None:
    """Other questions with their answers, as they stand before the one at that place."""
    question = questions[at]
    others = [
        other
        for place, other in enumerate(questions)
        if other.answer
        and place != at
        and ((other.task == question.task) if probe == "fewshot" else not set(topics[place]) & set(topics[at]))
    ]
    count = SHOTS if probe == "fewshot" else 1
    if len(others) < count:
        return None
    return "".join(f"{other.text or other.prompt}{other.answer}\n\n" for other in chance.sample(others, count))


def _after(question: Asked, before: str | None) -> Asked | None:
    if before is None:
        return None
    if question.text:
        return _with_text(question, before + question.text)
    return question.with_contexts([before + context if context else context for context in question.contexts])
