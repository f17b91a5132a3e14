"""Sums, equations and units: problems that a small calculation settles, answered with a whole number.

Numbers are small on purpose. A model of a hundred million parameters can learn these from a few hundred examples; it
cannot learn to multiply four digits. No step ever goes below zero and no division leaves a rest.
"""

from collections.abc import Callable
from random import Random

from topiclora_cli.data.families.example import Draft, Family
from topiclora_cli.data.families.lexicon import NAMES, capital, say

_APPLY: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}
_DO = {"+": "add {}", "-": "subtract {}", "*": "multiply by {}"}
_SUM_AS_FORMULA = (
    "What is {formula}?",
    "Compute {formula}.",
    "Work out {formula}.",
    "Find the value of {formula}.",
    "How much is {formula}?",
)
_SUM_AS_STEPS = (
    "Start with {start}, {first}, then {second}. What is the result?",
    "Take {start}. {First}, and {second}. Which number do you get?",
    "{Name} writes down {start}. {First}. Now {second}. What comes out?",
)
_STORY = (
    "{Name} has {start} {things}, {first} and then {second}. How many {things} does {Name} have now?",
    "At first {Name} has {start} {things}. Then {Name} {first} and {second}. How many {things} is that now?",
)
_STORY_DO = {"+": ("gets {} more", "finds {}", "buys {}"), "-": ("loses {}", "gives away {}", "sells {}")}
_COUNTABLE = ("stamps", "marbles", "eggs", "cards", "shells", "coins", "pencils", "beads")


def _multistep_arithmetic(rng: Random) -> Draft:
    ops = rng.choice(("++", "+-", "-+", "--", "+*", "-*", "*+", "*-"))
    if "*" in ops:
        start, first, second = rng.randint(2, 9), rng.randint(2, 5), rng.randint(2, 5)
        if ops == "-*":
            start = first + rng.randint(2, 8)
        elif ops[0] == "*":
            second = rng.randint(1, min(9, start * first - 1))
    else:
        start, first, second = rng.randint(18, 40), rng.randint(1, 9), rng.randint(1, 9)
    value = _APPLY[ops[1]](_APPLY[ops[0]](start, first), second)
    inner = f"{start} {ops[0]} {first}"
    formula = f"({inner}) * {second}" if ops[1] == "*" else f"{inner} {ops[1]} {second}"

    style = rng.randrange(3)
    if style == 0:
        question = say(rng, _SUM_AS_FORMULA, formula=formula)
    elif style == 1 or "*" in ops:
        one, two = _DO[ops[0]].format(first), _DO[ops[1]].format(second)
        question = say(
            rng, _SUM_AS_STEPS, start=start, first=one, First=capital(one), second=two, Name=rng.choice(NAMES)
        )
    else:
        one, two = (rng.choice(_STORY_DO[op]).format(n) for op, n in zip(ops, (first, second), strict=True))
        question = say(
            rng, _STORY, Name=rng.choice(NAMES), start=start, things=rng.choice(_COUNTABLE), first=one, second=two
        )
    return Draft(question, str(value), formula)


_SOLVE = (
    "Solve for {x}: {equation}",
    "If {equation}, what is {x}?",
    "Find {x} when {equation}.",
    "Which number must {x} be so that {equation}?",
    "{equation}. What is the value of {x}?",
)
_GUESS = (
    "I think of a number, {steps}, and get {result}. What is my number?",
    "A secret number: {steps}, and you get {result}. What is the secret number?",
    "{Name} picks a number. After you {steps}, it is {result}. Which number was picked?",
)


# equation -> (the same as steps on a secret number, its right-hand side)
_EQUATIONS: dict[str, tuple[str, Callable[[int, int, int], int]]] = {
    "x + {b}": ("add {b}", lambda a, b, x: x + b),
    "x - {b}": ("subtract {b}", lambda a, b, x: x - b),
    "{b} - x": ("subtract it from {b}", lambda a, b, x: b - x),
    "{a}x": ("multiply it by {a}", lambda a, b, x: a * x),
    "{a}x + {b}": ("multiply it by {a}, add {b}", lambda a, b, x: a * x + b),
    "{a}x - {b}": ("multiply it by {a}, subtract {b}", lambda a, b, x: a * x - b),
}


def _linear_equations(rng: Random) -> Draft:
    left, (steps, right) = rng.choice(list(_EQUATIONS.items()))
    result = -1
    while result < 0:
        solution = rng.randint(2, 9 if "{a}" in left else 20)
        a, b = rng.randint(2, 9), rng.randint(1, 20)
        result = right(a, b, solution)
    equation = f"{left.format(a=a, b=b)} = {result}"
    letter = rng.choice("xynkztm")
    if rng.random() < 0.6:
        question = say(rng, _SOLVE, x=letter, equation=equation.replace("x", letter))
    else:
        question = say(rng, _GUESS, steps=steps.format(a=a, b=b), result=result, Name=rng.choice(NAMES))
    return Draft(question, str(solution), equation)


# (small unit, large unit, how many small ones make a large one)
_UNITS = (
    ("seconds", "minutes", 60), ("minutes", "hours", 60), ("hours", "days", 24), ("days", "weeks", 7),
    ("months", "years", 12), ("years", "decades", 10), ("years", "centuries", 100), ("millimeters", "centimeters", 10),
    ("centimeters", "meters", 100), ("meters", "kilometers", 1000), ("grams", "kilograms", 1000),
    ("milliliters", "liters", 1000), ("inches", "feet", 12), ("feet", "yards", 3), ("ounces", "pounds", 16),
    ("pints", "gallons", 8), ("quarts", "gallons", 4), ("cents", "dollars", 100),
)  # fmt: skip
_CONVERT = (
    "Convert {amount} to {unit}.",
    "How many {unit} are there in {amount}?",
    "Express {amount} in {unit}.",
    "{amount} is how many {unit}?",
    "{Name} needs to know how many {unit} make {amount}. How many?",
)


def _unit_conversion(rng: Random) -> Draft:
    small, large, factor = rng.choice(_UNITS)
    many = rng.randint(2, 9 if factor in (12, 16, 24, 60) else 25)
    form = rng.choice(("down", "up", "mixed"))
    if form == "up":
        amount, unit, answer = f"{many * factor} {small}", large, many
    elif form == "down":
        amount, unit, answer = f"{many} {large}", small, many * factor
    else:
        # Large factors get round extras: the skill is the factor, not carrying digits.
        extra = rng.randrange(5, 100, 5) if factor >= 100 else rng.randint(2, factor - 1)
        amount, unit, answer = f"{many} {large} and {extra} {small}", small, many * factor + extra
    question = say(rng, _CONVERT, amount=amount, unit=unit, Name=rng.choice(NAMES))
    return Draft(question, str(answer), f"{amount} in {unit}")


FAMILIES = (
    Family(
        "multistep_arithmetic",
        ("arithmetic", "mathematics", "multi-step"),
        "free",
        "two-step sums, as formulas, instructions or stories",
        _multistep_arithmetic,
    ),
    Family(
        "linear_equations",
        ("algebra", "mathematics"),
        "free",
        "find the unknown in a linear equation or a number riddle",
        _linear_equations,
    ),
    Family(
        "unit_conversion",
        ("arithmetic", "contextual question-answering", "mathematics"),
        "free",
        "convert time, length, mass, volume and money",
        _unit_conversion,
    ),
)
