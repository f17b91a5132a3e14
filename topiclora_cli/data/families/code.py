"""Small Python programs: say what they print.

A program is written with VAR and OTHER for its variables, which are named last; its answer is worked out beside it
rather than by running it.
"""

from collections.abc import Callable
from random import Random

from topiclora_cli.data.families.example import Draft, Family
from topiclora_cli.data.families.lexicon import WORDS

_FRAMES = (
    "What does this Python code print?\n{}",
    "Give the output of this program:\n{}",
    "{}\nWhat is printed?",
    "Trace the code and give its output.\n{}",
    "Python:\n{}\nOutput?",
)
_LETTERS = "abcdefghkmnpqrstuvwxyz"

_Program = tuple[str, str]


def _reassign(rng: Random) -> _Program:
    a, b, c = rng.randint(2, 20), rng.randint(2, 9), rng.randint(2, 5)
    plus, times = rng.random() < 0.5, rng.random() < 0.4
    middle = a + b if plus else a - b
    code = f"VAR = {a}\nOTHER = VAR {'+' if plus else '-'} {b}\nprint(OTHER {'*' if times else '+'} {c})"
    return code, str(middle * c if times else middle + c)


def _loop(rng: Random) -> _Program:
    start, turns, step = rng.randint(0, 9), rng.randint(2, 5), rng.randint(1, 5)
    code = f"VAR = {start}\nfor OTHER in range({turns}):\n    VAR += {step}\nprint(VAR)"
    return code, str(start + turns * step)


def _branch(rng: Random) -> _Program:
    value, limit, step = rng.randint(2, 20), rng.randint(4, 16), rng.randint(1, 6)
    code = f"VAR = {value}\nif VAR > {limit}:\n    VAR -= {step}\nelse:\n    VAR += {step}\nprint(VAR)"
    return code, str(value - step if value > limit else value + step)


def _list(rng: Random) -> _Program:
    values = [rng.randint(1, 20) for _ in range(3)]
    new = rng.randint(1, 20)
    after = [*values, new]
    call, answer = rng.choice(
        (
            ("VAR[0]", after[0]),
            ("VAR[1]", after[1]),
            ("VAR[-1]", after[-1]),
            ("len(VAR)", len(after)),
            ("max(VAR)", max(after)),
            ("min(VAR)", min(after)),
        )
    )
    return f"VAR = {values}\nVAR.append({new})\nprint({call})", str(answer)


def _string(rng: Random) -> _Program:
    word, other = rng.sample(WORDS, 2)
    call, answer = rng.choice(
        (
            ("VAR[0]", word[0]),
            ("VAR[-1]", word[-1]),
            ("VAR[:2]", word[:2]),
            ("len(VAR)", str(len(word))),
            ("VAR.upper()", word.upper()),
            (f'VAR + "{other}"', word + other),
        )
    )
    return f'VAR = "{word}"\nprint({call})', answer


def _lookup(rng: Random) -> _Program:
    one, two = rng.sample(WORDS, 2)
    values = {one: rng.randint(1, 20), two: rng.randint(1, 20)}
    wanted, extra = rng.choice((one, two)), rng.randint(0, 5)
    shown = ", ".join(f'"{word}": {value}' for word, value in values.items())
    more = f" + {extra}" if extra else ""
    return f'VAR = {{{shown}}}\nprint(VAR["{wanted}"]{more})', str(values[wanted] + extra)


def _truth(rng: Random) -> _Program:
    left, middle, right = (rng.randint(1, 9) for _ in range(3))
    joiner = rng.choice(("and", "or"))
    first, second = left < middle, middle > right
    answer = (first and second) if joiner == "and" else (first or second)
    return f"VAR = {middle}\nprint({left} < VAR {joiner} VAR > {right})", str(answer)


_PROGRAMS: tuple[Callable[[Random], _Program], ...] = (_reassign, _loop, _branch, _list, _string, _lookup, _truth)


def _code_tracing(rng: Random) -> Draft:
    code, answer = rng.choice(_PROGRAMS)(rng)
    variable, other = rng.sample(_LETTERS, 2)
    named = code.replace("VAR", variable).replace("OTHER", other)
    return Draft(rng.choice(_FRAMES).format(named), answer, code)


FAMILIES = (
    Family(
        "code_tracing",
        ("computer code", "logical reasoning", "multi-step"),
        "free",
        "say what a few lines of Python print",
        _code_tracing,
    ),
)
