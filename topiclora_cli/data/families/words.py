"""Words as such: their order, their letters and the kind of thing they name."""

from random import Random

from topiclora_cli.data.families.example import Draft, Family
from topiclora_cli.data.families.lexicon import CATEGORIES, WORDS, say

_SORT = (
    "Sort these words alphabetically: {words}",
    "Put the words in alphabetical order: {words}",
    "Arrange from A to Z: {words}",
    "In which order does a dictionary list these words? {words}",
    "Words: {words}\nWrite them in alphabetical order.",
)
_SORT_BACKWARDS = (
    "Sort these words in reverse alphabetical order: {words}",
    "Arrange from Z to A: {words}",
    "Put the words in order, last letter of the alphabet first: {words}",
    "Words: {words}\nWrite them in reverse alphabetical order.",
)


def _word_sorting(rng: Random) -> Draft:
    words = rng.sample(WORDS, rng.choice((2, 2, 3)))
    backwards = rng.random() < 0.3
    question = say(rng, _SORT_BACKWARDS if backwards else _SORT, words=" ".join(words))
    answer = " ".join(sorted(words, reverse=backwards))
    return Draft(question, answer, f"{'Z-A' if backwards else 'A-Z'} {' '.join(sorted(words))}")


_LETTERS = (
    "Name the {which} letters of these words: {words}",
    "Take the {which} letter of each word: {words}",
    "What are the {which} letters of the words? {words}",
    "Words: {words}\nWrite only the {which} letter of each.",
    "Keep just the {which} letter of every word: {words}",
)


def _letter_picking(rng: Random) -> Draft:
    which, place = rng.choice((("first", 0), ("last", -1)))
    words = rng.sample(WORDS, rng.choice((2, 3)))
    question = say(rng, _LETTERS, which=which, words=" ".join(words))
    return Draft(question, " ".join(word[place] for word in words), f"{which} {' '.join(words)}")


_ODD = (
    "Which word does not belong with the others?",
    "Find the odd one out.",
    "Three of these are alike. Which one is different?",
    "One of these is another kind of thing than the rest. Which?",
    "Pick the word that does not fit the group.",
)


def _odd_one_out(rng: Random) -> Draft:
    common, other = rng.sample(list(CATEGORIES), 2)
    odd = rng.choice(CATEGORIES[other])
    options = (odd, *rng.sample(CATEGORIES[common], 3))
    return Draft(rng.choice(_ODD), odd, " ".join(sorted(options)), options)


FAMILIES = (
    Family(
        "word_sorting",
        ("algorithms",),
        "free",
        "put words in alphabetical order, or its reverse",
        _word_sorting,
    ),
    Family(
        "letter_picking",
        ("multi-step", "tokenization"),
        "free",
        "name the first or the last letters of some words",
        _letter_picking,
    ),
    Family(
        "odd_one_out",
        ("analogical reasoning", "context-free question answering", "word sense disambiguation"),
        "choice",
        "find the word of another kind among four",
        _odd_one_out,
    ),
)
