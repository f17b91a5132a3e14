"""What follows from what: arguments that hold or do not, and objects that change hands.

Valid and invalid arguments are drawn from the same moods ("all, all, therefore all"), so the quantifiers say nothing
about the label; only who stands where does. Whether a syllogism is valid is worked out from all worlds of three kinds
of people, and the forms whose validity hangs on whether empty kinds count are left out.
"""

import functools
from itertools import permutations, product
from random import Random

from topiclora_cli.data.families.example import Draft, Family
from topiclora_cli.data.families.lexicon import NAMES, THINGS, capital, listed, say

_Statement = tuple[str, int, int]
_Form = tuple[_Statement, _Statement, _Statement]

_MOODS = {"A": "all {} are {}", "E": "no {} are {}", "I": "some {} are {}", "O": "some {} are not {}"}
_TRIPLES = ("AAA", "EAE", "AEE", "AII", "IAI", "EIO")
_GROUPS = listed(
    """bakers dancers poets swimmers drummers farmers painters singers hikers gardeners runners cooks sailors writers
    teachers nurses pianists cyclists weavers potters"""
)
_ACTS = ("sing", "dance", "cook", "swim", "read", "paint", "run", "hike", "whistle", "drum", "draw", "sew", "ski")


@functools.cache
def _worlds() -> tuple[tuple[frozenset[int], ...], ...]:
    """List all worlds: a world is the set of kinds of individuals in it, a kind a subset of the three groups."""
    kinds = [frozenset(i for i in range(3) if bits >> i & 1) for bits in range(1, 8)]
    return tuple(tuple(k for k, there in zip(kinds, row, strict=True) if there) for row in product((0, 1), repeat=7))


def _holds(statement: _Statement, world: tuple[frozenset[int], ...]) -> bool:
    mood, subject, predicate = statement
    overlap = any(subject in kind and predicate in kind for kind in world)
    rest = any(subject in kind and predicate not in kind for kind in world)
    return {"A": not rest, "E": not overlap, "I": overlap, "O": rest}[mood]


@functools.cache
def _forms(triple: str) -> tuple[tuple[_Form, ...], tuple[_Form, ...]]:
    """Sort the forms of a triple of moods into (invalid, valid); groups 0 and 2 end up in the conclusion."""
    sorted_forms: tuple[list[_Form], list[_Form]] = ([], [])
    for first, second, last in product(permutations((0, 1)), permutations((1, 2)), permutations((0, 2))):
        form: _Form = (
            (triple[0], first[0], first[1]),
            (triple[1], second[0], second[1]),
            (triple[2], last[0], last[1]),
        )
        counter = [w for w in _worlds() if _holds(form[0], w) and _holds(form[1], w) and not _holds(form[2], w)]
        populated = [w for w in counter if all(any(group in kind for kind in w) for group in range(3))]
        if bool(counter) == bool(populated):
            sorted_forms[not counter].append(form)
    return tuple(sorted_forms[0]), tuple(sorted_forms[1])


def _categorical(rng: Random, valid: bool) -> tuple[list[str], str]:
    groups = rng.sample(_GROUPS, 3)
    form = rng.choice(_forms(rng.choice(_TRIPLES))[valid])
    first, second, conclusion = (_MOODS[mood].format(groups[a], groups[b]) for mood, a, b in form)
    return [first, second], conclusion


def _conditional(rng: Random, valid: bool) -> tuple[list[str], str]:
    (who, whom), (act, other) = rng.sample(NAMES, 2), rng.sample(_ACTS, 2)
    cause, effect = f"{who} {act}s", f"{whom} {other}s"
    rule = f"if {cause}, {effect}" if rng.random() < 0.5 else f"{effect} if {cause}"
    yes, no = (cause, effect), (f"{who} does not {act}", f"{whom} does not {other}")
    denied = rng.random() < 0.5
    given, conclusion = no[::-1] if denied else yes
    return ([rule, given], conclusion) if valid else ([rule, conclusion], given)


_ARGUE = (
    "{First}. {Second}. Does it follow that {conclusion}?",
    "Suppose {first}, and {second}. Must it be true that {conclusion}?",
    "Premises: {first}; {second}. Conclusion: {conclusion}. Is it valid?",
    "{First}. {Second}. Can we be sure that {conclusion}?",
    "We know that {first} and that {second}. So {conclusion}. Is this sound?",
)


def _syllogisms(rng: Random) -> Draft:
    valid = rng.random() < 0.5
    premises, conclusion = rng.choice((_categorical, _conditional))(rng, valid)
    key = f"{'; '.join(sorted(premises))} => {conclusion}"
    first, second = rng.sample(premises, 2)
    question = say(
        rng,
        _ARGUE,
        first=first,
        First=capital(first),
        second=second,
        Second=capital(second),
        conclusion=conclusion,
    )
    return Draft(question, "yes" if valid else "no", key, ("yes", "no"))


_START = (
    "{a} has the {x}, {b} the {y}, {c} the {z}.",
    "At first {a} holds the {x}, {b} the {y}, {c} the {z}.",
    "{a} gets a {x}, {b} a {y}, {c} a {z}.",
    "The {x} is with {a}, the {y} with {b}, the {z} with {c}.",
)
_SWAP = ("{} and {} swap.", "{} trades with {}.", "{} and {} exchange theirs.")
_WHAT = ("What does {} have now?", "What is {} holding?", "Which thing ends up with {}?")
_WHO = ("Who has the {} now?", "Who is holding the {}?", "Who ends up with the {}?")


def _shuffled_objects(rng: Random) -> Draft:
    people, things = rng.sample(NAMES, 3), rng.sample(THINGS, 3)
    asked, answer = rng.randrange(3), rng.randrange(3)
    # Fixing the asked person and the answer before the swaps keeps "what they began with" a one-in-three guess.
    while True:
        swaps = [tuple(rng.sample(range(3), 2)) for _ in range(rng.choice((1, 1, 2)))]
        held = [0, 1, 2]
        for one, two in swaps:
            held[one], held[two] = held[two], held[one]
        if held[asked] == answer:
            break
    start = say(rng, _START, **dict(zip("abcxyz", [*people, *things], strict=True)))
    moves = " ".join(rng.choice(_SWAP).format(people[one], people[two]) for one, two in swaps)
    state = " ".join([*people, *things, *(f"{min(swap)}{max(swap)}" for swap in swaps)])
    if rng.random() < 0.5:
        question, options, right = rng.choice(_WHAT).format(people[asked]), things, things[answer]
    else:
        question, options, right = rng.choice(_WHO).format(things[answer]), people, people[asked]
    return Draft(f"{start} {moves} {question}", right, f"{state} -> {right}", tuple(options))


FAMILIES = (
    Family(
        "syllogisms",
        ("fallacy", "logical reasoning", "negation"),
        "choice",
        "tell whether a conclusion follows from two premises",
        _syllogisms,
    ),
    Family(
        "shuffled_objects",
        ("decomposition", "logical reasoning", "multi-step", "visual reasoning"),
        "choice",
        "follow three objects through some swaps",
        _shuffled_objects,
    ),
)
