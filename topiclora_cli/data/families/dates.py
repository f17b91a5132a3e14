"""The calendar: which weekday, month or date lies some steps before or after another.

The right date's rank among the options is drawn first and the others are laid out around it, so that neither the
middle nor the end of a row of dates is a good guess.
"""

from datetime import date, timedelta
from random import Random

from topiclora_cli.data.families.example import Draft, Family
from topiclora_cli.data.families.lexicon import NAMES, say

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_LATER = (
    "Today is {start}. What {what} will it be in {steps}?",
    "What {what} comes {steps} after {start}?",
    "{Name} was born on {start} and had visitors {steps} later. What {what} was that?",
    "From {start}, count {steps} forward. Which {what} is it?",
    "A trip starts on {start} and ends {steps} later. On which {what} does it end?",
)
_EARLIER = (
    "Today is {start}. What {what} was it {steps} ago?",
    "What {what} comes {steps} before {start}?",
    "{Name} arrived on {start} but had left home {steps} earlier. What {what} was that?",
    "From {start}, count {steps} back. Which {what} is it?",
    "A letter came on {start}. It was sent {steps} before. On which {what} was it sent?",
)


def _cycle(rng: Random, names: tuple[str, ...], steps: int) -> tuple[str, str, tuple[str, ...]]:
    start = rng.randrange(len(names))
    answer = names[(start + steps) % len(names)]
    others = rng.sample([name for name in names if name != answer], 3)
    return names[start], answer, (answer, *others)


def _show(day: date) -> str:
    return f"{_MONTHS[day.month - 1]} {day.day}"


def _dates(rng: Random, steps: int) -> tuple[str, str, tuple[str, ...]]:
    gap, rank = rng.choice((1, 2, 3)), rng.randrange(4)
    while True:
        start = date(2023, 1, 1) + timedelta(days=rng.randrange(365))
        days = [start + timedelta(days=steps + gap * (place - rank)) for place in range(4)]
        # No year is named: a span that runs over the end of February would have two answers.
        if all((day < date(2023, 3, 1)) == (start < date(2023, 3, 1)) for day in days):
            return _show(start), _show(days[rank]), tuple(map(_show, days))


def _calendar_dates(rng: Random) -> Draft:
    unit = rng.choice(("weekday", "month", "date", "date"))
    count = rng.randint(2, {"weekday": 6, "month": 6, "date": 12}[unit])
    forward = rng.random() < 0.5
    steps = count if forward else -count
    if unit == "date":
        start, answer, options = _dates(rng, steps)
    else:
        start, answer, options = _cycle(rng, _DAYS if unit == "weekday" else _MONTHS, steps)
    span = f"{count} {'months' if unit == 'month' else 'days'}"
    question = say(rng, _LATER if forward else _EARLIER, start=start, steps=span, what=unit, Name=rng.choice(NAMES))
    if unit == "month":
        question = question.replace("Today is", "It is now").replace("On which", "In which")
        question = question.replace(f"on {start}", f"in {start}").replace("on which", "in which")
    return Draft(question, answer, f"{start} {steps:+d} {unit}", options)


FAMILIES = (
    Family(
        "calendar_dates",
        ("common sense", "logical reasoning", "reading comprehension"),
        "choice",
        "count days and months forward and back",
        _calendar_dates,
    ),
)
