"""False belief: a thing is moved, and somebody may not know.

Where a person looks for it depends on whether they saw the move or were told of it. Questions about the fact (where it
is, where it was) are mixed in, so that neither place, nor the order of naming them, is the better guess.
"""

from random import Random

from topiclora_cli.data.families.example import Draft, Family
from topiclora_cli.data.families.lexicon import NAMES, THINGS

_PLACES = (
    "basket", "drawer", "bag", "closet", "barrel", "suitcase", "kitchen", "cellar", "garage", "chest", "tent", "attic",
    "bucket", "shed",
)  # fmt: skip
_PUT = (
    "{a} puts the {x} in the {p}.",
    "{a} has left the {x} in the {p}.",
    "The {x} of {a} lies in the {p}.",
    "{b} sees {a} hide the {x} in the {p}.",
)
_UNSEEN = (
    "While {a} is away, {b} moves it to the {q}.",
    "{a} goes out, and {b} secretly puts it in the {q}.",
    "{a} falls asleep. {b} takes it to the {q}.",
    "{b} moves it to the {q} and never tells {a}.",
)
_SEEN = (
    "While {a} is watching, {b} moves it to the {q}.",
    "{a} looks on as {b} puts it in the {q}.",
    "While {a} is away, {b} takes it to the {q}, then tells {a} so.",
    "{b} moves it to the {q} and shows {a}.",
)
_BELIEVED = (
    "Where will {a} look for the {x}?",
    "Where does {a} think the {x} is?",
    "{a} wants the {x}. Which place will {a} try first?",
    "In the mind of {a}, where is the {x}?",
)
_NOW = ("Where is the {x} really?", "Where does {b} think the {x} is?", "Where will {b} look for the {x}?")
_BEFORE = ("Where was the {x} at first?", "Where did {a} keep the {x} in the beginning?")


def _false_belief(rng: Random) -> Draft:
    (a, b), (p, q) = rng.sample(NAMES, 2), rng.sample(_PLACES, 2)
    parts = {"a": a, "b": b, "x": rng.choice(THINGS), "p": p, "q": q}
    seen = rng.random() < 0.5
    asked = rng.choice(("believed", "believed", "believed", "believed", "now", "before"))
    moved = {"believed": seen, "now": True, "before": False}[asked]
    ask = {"believed": _BELIEVED, "now": _NOW, "before": _BEFORE}[asked]
    story = f"{rng.choice(_PUT)} {rng.choice(_SEEN if seen else _UNSEEN)} {rng.choice(ask)}"
    key = f"{parts['x']}: {p} to {q}, {'seen' if seen else 'unseen'}, {asked}"
    return Draft(story.format(**parts), q if moved else p, key, (p, q))


FAMILIES = (
    Family(
        "false_belief",
        ("narrative understanding", "social reasoning", "theory of mind"),
        "choice",
        "say where somebody will look for a thing that was moved",
        _false_belief,
    ),
)
