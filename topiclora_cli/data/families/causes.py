"""Cause and effect: what happened to a thing, given why, and why, given what happened.

Every thing can meet each of the four outcomes of its group, and the options are outcomes (or causes) of that same
group, so the thing alone says nothing: only what was done to it does. The four outcomes of a group exclude each other.
"""

from random import Random
from typing import NamedTuple

from topiclora_cli.data.families.example import Draft, Family
from topiclora_cli.data.families.lexicon import NAMES, capital, say


class _Group(NamedTuple):
    things: str
    causes: dict[str, tuple[str, str, str]]


_GROUPS = (
    _Group(
        "juice, milk, soup, broth, lemonade, cider, stew, porridge, sauce, gravy",
        {
            "froze": (
                "the {} stayed in the freezer",
                "the {} stood outside at the North Pole",
                "ice lay around the {}",
            ),
            "boiled": ("the {} stood on a hot stove", "the {} hung over a big fire", "the {} was heated at full power"),
            "spilled": ("the cup of {} tipped over", "a cat knocked over the {}", "someone dropped the bowl of {}"),
            "went bad": (
                "the {} was forgotten for weeks",
                "the {} was kept far too long",
                "nobody used the {} in time",
            ),
        },
    ),
    _Group(
        "shirt, scarf, towel, blanket, coat, dress, skirt, jacket, curtain, sweater, flag, sari",
        {
            "got wet": ("rain fell on the {}", "someone poured water on the {}", "the {} fell into the river"),
            "dried": ("the wet {} hung in the sun", "the damp {} lay by a heater", "wind blew at the dripping {}"),
            "tore": ("the {} caught on a nail", "two dogs pulled at the {}", "the {} got stuck and was yanked"),
            "burned": ("a candle flame touched the {}", "a hot iron stayed on the {}", "the {} fell into a campfire"),
        },
    ),
    _Group(
        "rose, bean plant, young tree, sunflower, fern, lily, basil plant, orchid, herb, tulip, daisy, pepper plant",
        {
            "wilted": ("the {} got no water", "the soil of the {} was bone dry", "nobody watered the {}"),
            "grew taller": (
                "the {} got sun and rain",
                "the {} was watered and fed",
                "the {} stood in rich moist soil",
            ),
            "was eaten": ("a goat reached the {}", "a rabbit found the {}", "hungry caterpillars covered the {}"),
            "fell over": ("a storm pushed the {}", "a football hit the {}", "the cat jumped against the {}"),
        },
    ),
    _Group(
        "vase, plate, bowl, mirror, jar, bottle, lamp, teapot, glass, dish, pitcher, goblet",
        {
            "broke": ("the {} dropped on a stone floor", "a hammer struck the {}", "the {} slid off a high shelf"),
            "got dusty": (
                "the {} stood in the attic",
                "nobody wiped the {} for months",
                "the {} stood by a sandy road",
            ),
            "became shiny": (
                "someone polished the {}",
                "a soft cloth rubbed the {}",
                "someone washed the {} with soap",
            ),
            "was sold": ("a customer wanted the {}", "a tourist paid for the {}", "a buyer made an offer for the {}"),
        },
    ),
    _Group(
        "gate, knife, shovel, chain, bucket, nail, hinge, spoon, axe, bolt, key, pipe",
        {
            "rusted": ("the {} stood in the rain for months", "the {} lay in sea water", "the {} stayed wet all year"),
            "got hot": ("the {} lay near a fire", "the desert sun shone on the {}", "the {} was held over a flame"),
            "got bent": ("a truck drove over the {}", "a heavy rock fell on the {}", "a strong man twisted the {}"),
            "got cold": ("the {} was put in a freezer", "the {} lay on a block of ice", "an icy wind blew on the {}"),
        },
    ),
    _Group(
        "phone, radio, laptop, camera, flashlight, tablet, robot, drone, speaker, watch",
        {
            "turned off": ("the battery of the {} ran out", "someone pressed stop on the {}", "the {} lost all power"),
            "charged up": ("the {} was plugged in all night", "the {} was on its charger", "someone charged the {}"),
            "got soaked": ("the {} fell into a lake", "a wave washed over the {}", "rain poured on the {}"),
            "worked again": ("an expert fixed the {}", "the {} got a new part", "a shop repaired the broken {}"),
        },
    ),
    _Group(
        "butter, chocolate, cheese, fudge, caramel, cake, candy bar, marzipan, margarine, nougat",
        {
            "melted": ("the {} lay in the hot sun", "the {} was put on a stove", "the {} was left in a hot car"),
            "became hard": ("the {} was put in a freezer", "the {} lay in the snow", "someone packed the {} in ice"),
            "was eaten": ("hungry children found the {}", "a mouse got to the {}", "a dog reached the {}"),
            "was sliced": ("a cook cut the {}", "a sharp knife went through the {}", "someone used a slicer on the {}"),
        },
    ),
    _Group(
        "dog, cat, horse, puppy, donkey, goat, kitten, camel, calf, pony, lamb, ox",
        {
            "got tired": ("the {} ran uphill for hours", "the {} walked all day", "the {} had no sleep"),
            "got hungry": ("the {} was not fed", "the {} had an empty bowl", "the {} missed every meal"),
            "got scared": ("thunder boomed above the {}", "fireworks went off by the {}", "a snake hissed at the {}"),
            "got dirty": ("the {} rolled in mud", "the {} crossed a swamp", "the {} lay in a puddle of mud"),
        },
    ),
    _Group(
        "field, village, valley, road, park, farm, market, square, meadow, garden, camp, plain",
        {
            "flooded": ("rain fell on the {} for weeks", "a dam above the {} broke", "the river rose over the {}"),
            "dried out": ("no rain fell on the {}", "a drought hit the {}", "the sun baked the {} all year"),
            "turned white": ("snow fell on the {}", "a blizzard hit the {}", "frost covered the {}"),
            "got crowded": ("a festival began at the {}", "tourists came to the {}", "a star sang at the {}"),
        },
    ),
    _Group(
        "car, bus, truck, van, taxi, tractor, jeep, scooter, motorcycle, minibus",
        {
            "got clean": ("soap and water ran over the {}", "the driver washed the {}", "someone scrubbed the {}"),
            "sped up": ("the driver pushed the gas of the {}", "the {} rolled down a hill", "the {} began a race"),
            "got stuck": ("the {} sank in deep mud", "the {} drove into soft sand", "the {} slid into a ditch"),
            "lost air": ("a nail hit a tire of the {}", "the {} ran over glass", "a thorn pricked a tire of the {}"),
        },
    ),
)

_EFFECT = (
    "{Cause}. What happened to the {thing}?",
    "{Name} saw that {cause}. What came of it?",
    "Choose the likely effect: {cause}.",
    "Cause: {cause}. Effect: the {thing} ...",
    "First, {cause}. And then the {thing} ...",
)
_CAUSE = (
    "The {thing} {effect}. Why?",
    "Choose the likely cause: the {thing} {effect}.",
    "{Name} saw that the {thing} {effect}. What was the reason?",
    "Effect: the {thing} {effect}. Cause?",
    "What could explain that the {thing} {effect}?",
)


def _cause_and_effect(rng: Random) -> Draft:
    group = rng.choice(_GROUPS)
    thing = rng.choice(group.things.split(", "))
    effect, *others = rng.sample(list(group.causes), 3)
    cause = rng.choice(group.causes[effect]).format(thing)
    name = rng.choice(NAMES)
    if rng.random() < 0.6:
        question = say(rng, _EFFECT, cause=cause, Cause=capital(cause), thing=thing, Name=name)
        return Draft(question, effect, f"effect of {cause}", (effect, *others))
    question = say(rng, _CAUSE, thing=thing, effect=effect, Name=name)
    options = (cause, *(rng.choice(group.causes[other]).format(thing) for other in others))
    return Draft(question, cause, f"cause of {effect}: {cause}", options)


FAMILIES = (
    Family(
        "cause_and_effect",
        ("causal reasoning", "common sense"),
        "choice",
        "choose what happened to a thing, or why",
        _cause_and_effect,
    ),
)
