"""School physics: laws of the form product = one factor x another, asked for any of the three.

Knowing which law joins the quantities, and so whether to multiply or divide, is the skill; the numbers stay whole.
"""

from random import Random
from typing import NamedTuple

from topiclora_cli.data.families.example import Draft, Family
from topiclora_cli.data.families.lexicon import NAMES, say


class _Quantity(NamedTuple):
    name: str
    unit: str


class _Law(NamedTuple):
    product: _Quantity
    left: _Quantity
    right: _Quantity
    bodies: tuple[str, ...]


_MASS = _Quantity("mass", "kilograms")
_FORCE = _Quantity("force", "newtons")
_ENERGY = _Quantity("energy", "joules")
_CURRENT = _Quantity("current", "amperes")
_VOLTAGE = _Quantity("voltage", "volts")
_POWER = _Quantity("power", "watts")
_TIME = _Quantity("time", "seconds")
_DISTANCE = _Quantity("distance", "meters")
_SPEED = _Quantity("speed", "meters per second")
_CARRIERS = ("cart", "truck", "ball", "sled", "crate")
_DEVICES = ("lamp", "motor", "heater", "radio", "pump")

_LAWS = (
    _Law(_FORCE, _MASS, _Quantity("acceleration", "m/s^2"), _CARRIERS),
    _Law(_DISTANCE, _SPEED, _TIME, ("runner", "train", "bird", "boat", "bicycle")),
    _Law(_VOLTAGE, _CURRENT, _Quantity("resistance", "ohms"), _DEVICES),
    _Law(_POWER, _VOLTAGE, _CURRENT, _DEVICES),
    _Law(_ENERGY, _POWER, _TIME, _DEVICES),
    _Law(_ENERGY, _FORCE, _DISTANCE, _CARRIERS),
    _Law(_MASS, _Quantity("density", "kg/m^3"), _Quantity("volume", "cubic meters"), ("rock", "block", "tank", "log")),
    _Law(_Quantity("momentum", "kg m/s"), _MASS, _SPEED, _CARRIERS),
    _Law(_FORCE, _Quantity("pressure", "pascals"), _Quantity("area", "square meters"), ("door", "plate", "wall")),
    _Law(_SPEED, _Quantity("frequency", "hertz"), _Quantity("wavelength", "meters"), ("wave", "sound", "ripple")),
    _Law(_Quantity("charge", "coulombs"), _CURRENT, _TIME, ("wire", "battery", "cable")),
)
_ASK = (
    "A {body} has {first} and {second}. What is its {name} in {unit}?",
    "Given {first} and {second}, find the {name} of a {body} in {unit}.",
    "For a {body} with {first} and {second}, what is the {name} in {unit}?",
    "{Name} measures {first} and {second} for a {body}. Find the {name} in {unit}.",
    "Physics: a {body}, {first}, {second}. Which {name} in {unit}?",
)


def _physics_formulas(rng: Random) -> Draft:
    law = rng.choice(_LAWS)
    a, b = rng.randint(2, 12), rng.randint(2, 12)
    values = {law.product: a * b, law.left: a, law.right: b}
    wanted = rng.choice(list(values))
    given = [
        f"{'an' if q.name[0] in 'aeiou' else 'a'} {q.name} of {value} {q.unit}"
        for q, value in values.items()
        if q != wanted
    ]
    key = f"{wanted.name} from {' and '.join(given)}"
    rng.shuffle(given)
    question = say(
        rng,
        _ASK,
        body=rng.choice(law.bodies),
        first=given[0],
        second=given[1],
        name=wanted.name,
        unit=wanted.unit,
        Name=rng.choice(NAMES),
    )
    return Draft(question, str(values[wanted]), key)


FAMILIES = (
    Family(
        "physics_formulas",
        ("domain specific", "mathematics", "physics"),
        "free",
        "apply a law of school physics to two given quantities",
        _physics_formulas,
    ),
)
