"""Answers that can be calculated, worked out a second time from nothing but the prompt.

Each solver reads the text as a careful person would and knows nothing of how the problem was made.
"""

import calendar
import contextlib
import io
import re
from collections.abc import Callable
from datetime import date, timedelta

import pytest

from topiclora_cli.data.families import Example, generate

DAYS = list(calendar.day_name)
MONTHS = list(calendar.month_name)[1:]


def body(example: Example) -> str:
    return re.split(r"\n(?:Options: .*\n)?Answer:$", example.prompt)[0]


def _arithmetic(e: Example) -> str:
    text = body(e)
    formula = re.search(r"[(\d][\d ()+*-]*[+*-][\d ()+*-]*\d", text)
    if formula:
        return str(eval(formula.group(), {"__builtins__": {}}))
    start, *rest = re.findall(r"\d+", text)
    value = int(start)
    verbs = re.findall(r"(add|subtract|multiply by|gets|finds|buys|loses|gives away|sells) \d", text.lower())
    for verb, number in zip(verbs, map(int, rest), strict=True):
        if verb == "multiply by":
            value *= number
        else:
            value += number if verb in {"add", "gets", "finds", "buys"} else -number
    return str(value)


def _equation(e: Example) -> str:
    text = body(e)
    stated = re.search(r"([\w+ -]*[a-z] ?[\w+ -]*) = (\d+)", text)
    if stated:
        left = re.sub(r"^.*\b(?:for [a-z]:|If|when|that)\s", "", stated.group(1)).strip()
        python = re.sub(r"(\d)([a-z])", r"\1*\2", left)
        letter = re.findall(r"\b[a-z]\b", re.sub(r"\*", " ", python))[0]
        solutions = [x for x in range(200) if eval(python, {letter: x}) == int(stated.group(2))]
    else:

        def run(x: int) -> int:
            for verb, number in re.findall(r"(multiply it by|add|subtract it from|subtract) (\d+)", text):
                x = {
                    "multiply it by": x * int(number),
                    "add": x + int(number),
                    "subtract it from": int(number) - x,
                    "subtract": x - int(number),
                }[verb]
            return x

        goal = int(re.findall(r"(?:get|it is) (\d+)", text)[0])
        solutions = [x for x in range(200) if run(x) == goal]
    assert len(solutions) == 1, text
    return str(solutions[0])


# Each unit in the smallest one of its kind that occurs.
SIZES = {
    "seconds": ("time", 1), "minutes": ("time", 60), "hours": ("time", 3600), "days": ("time", 86400),
    "weeks": ("time", 604800), "months": ("calendar", 1), "years": ("calendar", 12), "decades": ("calendar", 120),
    "centuries": ("calendar", 1200), "millimeters": ("length", 1), "centimeters": ("length", 10),
    "meters": ("length", 1000), "kilometers": ("length", 10**6), "inches": ("yard", 1), "feet": ("yard", 12),
    "yards": ("yard", 36), "grams": ("mass", 1), "kilograms": ("mass", 1000), "ounces": ("pound", 1),
    "pounds": ("pound", 16), "pints": ("gallon", 1), "quarts": ("gallon", 2), "gallons": ("gallon", 8),
    "milliliters": ("volume", 1), "liters": ("volume", 1000), "cents": ("money", 1), "dollars": ("money", 100),
}  # fmt: skip


def _units(e: Example) -> str:
    text = body(e)
    given = re.findall(r"(\d+) (\w+)", text)
    rest = re.sub(r"\d+ \w+", "", text)
    (wanted,) = (word for word in re.findall(r"[a-z]+", rest) if word in SIZES)
    assert {SIZES[unit][0] for _, unit in given} == {SIZES[wanted][0]}
    total, remainder = divmod(sum(int(n) * SIZES[unit][1] for n, unit in given), SIZES[wanted][1])
    assert remainder == 0
    return str(total)


# Dimensions of the units as powers of kilogram, meter, second, ampere.
DIMENSIONS = {
    "kilograms": (1, 0, 0, 0), "meters": (0, 1, 0, 0), "seconds": (0, 0, 1, 0), "amperes": (0, 0, 0, 1),
    "newtons": (1, 1, -2, 0), "joules": (1, 2, -2, 0), "watts": (1, 2, -3, 0), "volts": (1, 2, -3, -1),
    "ohms": (1, 2, -3, -2), "pascals": (1, -1, -2, 0), "hertz": (0, 0, -1, 0), "coulombs": (0, 0, 1, 1),
    "m/s^2": (0, 1, -2, 0), "meters per second": (0, 1, -1, 0), "kg/m^3": (1, -3, 0, 0), "kg m/s": (1, 1, -1, 0),
    "square meters": (0, 2, 0, 0), "cubic meters": (0, 3, 0, 0),
}  # fmt: skip
UNIT = "|".join(re.escape(unit) for unit in sorted(DIMENSIONS, key=len, reverse=True))


def _physics(e: Example) -> str:
    text = body(e)
    (a, one), (b, two) = ((int(n), DIMENSIONS[unit]) for n, unit in re.findall(rf"(\d+) ({UNIT})", text))
    wanted = DIMENSIONS[re.findall(rf"in ({UNIT})", text)[0]]
    if tuple(x + y for x, y in zip(one, two, strict=True)) == wanted:
        return str(a * b)
    if tuple(x - y for x, y in zip(one, two, strict=True)) == wanted:
        return str(a // b) if a % b == 0 else "no whole number"
    assert tuple(y - x for x, y in zip(one, two, strict=True)) == wanted
    return str(b // a) if b % a == 0 else "no whole number"


def _code(e: Example) -> str:
    lines = body(e).splitlines()
    code = "\n".join(line for line in lines if re.match(r"\w [-+]?= |\w\.append|for .*:$|if |else:|    |print\(", line))
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, {})
    return printed.getvalue().strip()


def _sorting(e: Example) -> str:
    text = body(e)
    words = re.findall(r"^Words: (.*)$", text, re.MULTILINE) or [re.split(r"[:?] ", text)[-1]]
    backwards = bool(re.search("reverse|Z to A|last letter", text))
    return " ".join(sorted(words[0].split(), reverse=backwards))


def _letters(e: Example) -> str:
    text = body(e)
    words = re.findall(r"^Words: (.*)$", text, re.MULTILINE) or [re.split(r"[:?] ", text)[-1]]
    return " ".join(word[0 if "first" in text else -1] for word in words[0].split())


def _dates(e: Example) -> str:
    text = body(e)
    count = int(re.findall(r"(\d+) (?:days|months)", text)[0])
    back = bool(re.search("ago|before|earlier|back", text))
    steps = -count if back else count
    start = re.findall(rf"\b({'|'.join(DAYS + MONTHS)})\b( \d+\b(?! (?:days|months)))?", text)[0]
    if start[0] in DAYS:
        return DAYS[(DAYS.index(start[0]) + steps) % 7]
    if not start[1]:
        return MONTHS[(MONTHS.index(start[0]) + steps) % 12]
    answers = set()
    for year in (2023, 2024):
        day = date(year, MONTHS.index(start[0]) + 1, int(start[1])) + timedelta(days=steps)
        answers.add(f"{MONTHS[day.month - 1]} {day.day}")
    assert len(answers) == 1, f"depends on the leap year: {text}"
    return answers.pop()


SOLVERS: dict[str, Callable[[Example], str]] = {
    "multistep_arithmetic": _arithmetic,
    "linear_equations": _equation,
    "unit_conversion": _units,
    "physics_formulas": _physics,
    "code_tracing": _code,
    "word_sorting": _sorting,
    "letter_picking": _letters,
    "calendar_dates": _dates,
}


@pytest.mark.parametrize("name", SOLVERS)
def test_the_answer_follows_from_the_prompt(name: str, examples: dict[str, list[Example]]) -> None:
    for e in [*examples[name], *generate(name, "test", 200, seed=8)]:
        assert SOLVERS[name](e) == e.answer, e.prompt
