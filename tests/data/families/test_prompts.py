"""The form of the prompts: short, plain, varied, and with options that give nothing away."""

import re
from collections import Counter, defaultdict

import pytest

from topiclora_cli.data.families import FAMILIES, Example, generate

CHOICE = [name for name, family in FAMILIES.items() if family.kind == "choice"]
FREE = [name for name, family in FAMILIES.items() if family.kind == "free"]
Drawn = dict[str, list[Example]]


def _body(example: Example) -> str:
    return re.split(r"\n(?:Options: .*\n)?Answer:$", example.prompt)[0]


@pytest.mark.parametrize("name", FAMILIES)
def test_prompts_are_plain_and_end_where_the_answer_begins(name: str, examples: Drawn) -> None:
    for e in examples[name]:
        assert e.prompt.isascii()
        assert e.prompt.endswith("\nAnswer:")
        assert e.answer
        assert e.answer == e.answer.strip()
        assert "{" not in _body(e) or name == "code_tracing"


@pytest.mark.parametrize("name", FAMILIES)
def test_prompts_are_short(name: str, examples: Drawn) -> None:
    """Words and single digits and signs stand in for tokens: the tokenizer splits numbers digit by digit."""
    lengths = [len(re.findall(r"[A-Za-z]+|\d|[^\w\s]", e.prompt)) for e in examples[name]]
    assert sum(lengths) / len(lengths) <= 50
    assert max(lengths) <= 90


@pytest.mark.parametrize("name", CHOICE)
def test_the_options_shown_are_the_choices(name: str, examples: Drawn) -> None:
    for e in examples[name]:
        assert f"\nOptions: {', '.join(e.choices)}\nAnswer:" in e.prompt
        assert e.answer in e.choices
        assert len(set(e.choices)) == len(e.choices) >= 2
        assert not any("," in choice for choice in e.choices)


@pytest.mark.parametrize("name", FREE)
def test_a_free_answer_is_short_and_has_no_options(name: str, examples: Drawn) -> None:
    for e in examples[name]:
        assert e.choices == ()
        assert "Options" not in e.prompt
        assert len(e.answer) <= 24


@pytest.mark.parametrize("name", CHOICE)
def test_the_right_option_stands_in_every_place_equally_often(name: str, examples: Drawn) -> None:
    places = Counter((len(e.choices), e.choices.index(e.answer)) for e in examples[name])
    for size in {size for size, _ in places}:
        seen = [places[size, place] for place in range(size)]
        expected = sum(seen) / size
        # 16.3 is the chi-square value that three degrees of freedom exceed once in a thousand draws.
        assert sum((count - expected) ** 2 / expected for count in seen) < 16.3


@pytest.mark.parametrize("name", CHOICE)
def test_guessing_without_the_question_is_near_chance(name: str) -> None:
    """A guesser that learns how often each option is right when shown, and never reads the question."""
    shown: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for e in generate(name, "train", 700, seed=5):
        shown.update(e.choices)
        right[e.answer] += 1
    test = generate(name, "test", 250, seed=5)
    chance = sum(1 / len(e.choices) for e in test) / len(test)
    score = sum(max(e.choices, key=lambda c: (right[c] + 1) / (shown[c] + 3)) == e.answer for e in test) / len(test)
    assert score < chance + 0.1


@pytest.mark.parametrize("name", CHOICE)
def test_longest_and_shortest_option_are_near_chance(name: str, examples: Drawn) -> None:
    drawn = examples[name]
    chance = sum(1 / len(e.choices) for e in drawn) / len(drawn)
    for pick in (max, min):
        score = sum(pick(e.choices, key=len) == e.answer for e in drawn) / len(drawn)
        assert score < chance + 0.12


@pytest.mark.parametrize("name", ["syllogisms", "claim_checking"])
def test_the_wording_of_the_question_does_not_tell_the_label(name: str) -> None:
    """A guesser that knows the label most common with the first two words of the question."""
    labels: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for e in generate(name, "train", 1000, seed=2):
        labels[" ".join(e.prompt.split()[:2])][e.answer] += 1
    common = {start: counts.most_common(1)[0][0] for start, counts in labels.items() if sum(counts.values()) >= 30}
    test = generate(name, "test", 300, seed=2)
    score = sum(common.get(" ".join(e.prompt.split()[:2]), e.choices[0]) == e.answer for e in test) / len(test)
    assert score < 1 / len(test[0].choices) + 0.1


@pytest.mark.parametrize("name", FAMILIES)
def test_the_wording_varies(name: str, examples: Drawn) -> None:
    """At least four wordings, told apart by their fixed first or last words."""

    def frame(e: Example) -> tuple[str, ...]:
        words = re.sub(r"\d+", "0", _body(e)).split()
        return (*words[:2], *words[-2:])

    fixed = Counter(word for e in examples[name] for word in set(frame(e)))
    common = {word for word, count in fixed.items() if count >= 15}
    frames = Counter(tuple(word if word in common else "_" for word in frame(e)) for e in examples[name])
    assert sum(count >= 8 for count in frames.values()) >= 4
