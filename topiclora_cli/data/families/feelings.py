"""Feelings: what somebody feels, from what happened, who did it and what was hoped for.

Feelings come in sets of four that fit stories about the same things, and no two of a set fit one story. The options are
three feelings of one set, so only the story decides: the same broken cup makes one person angry, another guilty.
"""

from random import Random
from typing import NamedTuple

from topiclora_cli.data.families.example import Draft, Family
from topiclora_cli.data.families.lexicon import NAMES, THINGS, say


class _Set(NamedTuple):
    slots: tuple[str, ...]
    stories: dict[str, tuple[str, str, str]]


_PEOPLE = (
    "cousin", "neighbor", "friend", "classmate", "teammate", "roommate", "teacher", "partner", "colleague", "nephew",
    "niece", "relative",
)  # fmt: skip
_CONTESTS = (
    "chess final", "dance show", "spelling contest", "bike race", "school play", "math contest", "song contest",
    "swimming race", "debate", "baking contest", "poetry night", "talent show", "karate match", "quiz", "marathon",
    "drum concert",
)  # fmt: skip
_PLACES = (
    "beach", "market", "school", "park", "museum", "station", "camp", "hotel", "farm", "temple", "library", "village",
    "harbor", "theater", "castle", "zoo", "forest", "island",
)  # fmt: skip

_SETS = (
    _Set(
        THINGS,
        {
            "angry": (
                "A {person} broke {name}'s {slot} on purpose.",
                "A {person} threw {name}'s {slot} in the trash and laughed.",
                "A {person} stole {name}'s {slot} and lied about it.",
            ),
            "guilty": (
                "{name} broke the {slot} of a kind {person} and said nothing.",
                "{name} lied to a {person} about losing the {slot} of that {person}.",
                "{name} took the {slot} of a {person} and regrets it.",
            ),
            "relieved": (
                "{name} feared a {person} had lost the {slot}, but it was safe.",
                "{name} thought the {slot} of a {person} was broken, but it was fine.",
                "{name} and a {person} searched for the {slot} for hours, and there it was.",
            ),
            "grateful": (
                "A {person} worked all day to make a {slot} for {name}.",
                "When {name} needed a {slot}, a {person} kindly lent one.",
                "A {person} surprised {name} with a {slot} as a gift.",
            ),
        },
    ),
    _Set(
        _CONTESTS,
        {
            "proud": (
                "{name} won the {slot}, and a {person} cheered.",
                "The judge of the {slot} told a {person} that {name} was the best.",
                "{name} beat a {person} and everyone else in the {slot}.",
            ),
            "disappointed": (
                "{name} hoped to win the {slot}, but a {person} won it.",
                "{name} and a {person} trained for months, but came last in the {slot}.",
                "{name} had longed to see the {slot} with a {person}, but it was called off.",
            ),
            "nervous": (
                "In a minute {name} must start in the {slot} before a strict {person}.",
                "{name} will soon hear whether a {person} or {name} won the {slot}.",
                "{name} has never tried the {slot} and must go first, then a {person}.",
            ),
            "bored": (
                "{name} has seen the same {slot} with a {person} ten times.",
                "{name} waits for a {person} at the {slot} with nothing to do for hours.",
                "The {slot} of a {person} goes on and on, and {name} yawns.",
            ),
        },
    ),
    _Set(
        _PLACES,
        {
            "scared": (
                "{name} and a {person} hear a growl in the dark near the {slot}.",
                "At the {slot}, a big snake crawls toward {name} and a {person}.",
                "A masked thief follows {name} and a {person} from the {slot}.",
            ),
            "lonely": (
                "Since a {person} left the {slot}, {name} has nobody to talk to.",
                "{name} eats alone at the {slot} every day and misses a {person}.",
                "Everyone at the {slot} has company, but {name}'s only {person} is far away.",
            ),
            "excited": (
                "Tomorrow {name} and a {person} visit the {slot} they have dreamed of.",
                "A {person} just invited {name} to a great party at the {slot}.",
                "{name} counts the hours until the trip to the {slot} with a {person}.",
            ),
            "embarrassed": (
                "{name} tripped over a {person} at the {slot} while everyone watched.",
                "At the {slot}, {name} called a {person} by a wrong name, and all laughed.",
                "{name} spilled soup on a {person} in front of the whole {slot}.",
            ),
        },
    ),
)
_ASK = (
    "{story} How does {name} feel?",
    "{story} What does {name} most likely feel?",
    "How is {name} feeling? {story}",
    "{story} Which word fits the mood of {name}?",
    "Read: {story} So {name} is ...",
)


def _feelings(rng: Random) -> Draft:
    group = rng.choice(_SETS)
    feeling, *others = rng.sample(list(group.stories), 3)
    story = rng.choice(group.stories[feeling])
    slot, person, name = rng.choice(group.slots), rng.choice(_PEOPLE), rng.choice(NAMES)
    told = story.format(name=name, slot=slot, person=person)
    key = story.format(name="X", slot=slot, person=person)
    return Draft(say(rng, _ASK, story=told, name=name), feeling, key, (feeling, *others))


FAMILIES = (
    Family(
        "feelings",
        ("emotional intelligence", "emotional understanding", "social reasoning"),
        "choice",
        "say how somebody feels about what happened",
        _feelings,
    ),
)
