"""Words that several families share: names from many places, and things sorted into kinds.

No word stands in two categories, and none of them plainly belongs to a second one, so "which of these does not fit"
has one answer.
"""

from random import Random


def listed(text: str) -> tuple[str, ...]:
    """Read a list of words off one string."""
    return tuple(text.split())


NAMES = listed(
    """Amina Kofi Mei Ravi Lucia Omar Ingrid Pablo Yuki Fatima Ivan Chloe Tariq Nia Hana Diego Leila Sven Priya Jamal
    Ana Kwame Linh Tomas Zara Aiko Musa Elena Hassan Maya Bruno Sana Emil Rosa Dev Ines Kenji Olga Sami Tara Luis Noor
    Wei Anya Malik Carla Juma Freya"""
)

CATEGORIES: dict[str, tuple[str, ...]] = {
    kind: listed(members)
    for kind, members in {
        "fruit": "apple banana grape mango peach pear papaya lemon cherry plum guava fig",
        "vegetable": "carrot onion cabbage spinach potato broccoli garlic celery radish okra lettuce turnip",
        "mammal": "horse goat camel lion tiger monkey rabbit zebra donkey elephant sheep wolf",
        "bird": "eagle sparrow pigeon parrot owl duck goose crow penguin hawk stork peacock",
        "insect": "ant bee wasp moth beetle butterfly mosquito locust termite grasshopper ladybug flea",
        "tool": "hammer saw drill wrench shovel axe chisel pliers screwdriver rake hoe sickle",
        "vehicle": "car bus train truck bicycle tram taxi van boat scooter helicopter ferry",
        "clothing": "shirt skirt scarf coat sari kimono sock glove jacket sweater dress hat",
        "furniture": "table chair sofa bed desk shelf cupboard stool bench wardrobe bookcase armchair",
        "instrument": "drum flute violin guitar piano trumpet sitar cello harp banjo oboe clarinet",
        "body part": "elbow knee ankle shoulder nose ear tongue wrist chin thumb neck toe",
        "weather": "rain snow fog storm hail wind thunder lightning drizzle breeze frost sleet",
        "job": "nurse farmer baker teacher pilot tailor plumber judge dentist carpenter lawyer engineer",
        "metal": "iron copper tin zinc nickel steel brass aluminum platinum titanium chromium lithium",
        "color": "red blue green yellow purple pink brown gray white black crimson turquoise",
        "building": "school hospital temple library museum mosque church hotel factory bakery palace castle",
    }.items()
}

# Long words are left out: an answer made of a few of them would run to many tokens.
WORDS = tuple(word for members in CATEGORIES.values() for word in members if len(word) <= 6)

THINGS = listed(
    "kite drum map lamp book ball coin mask ring bell fan pen cup hat toy box key doll vase rug flag mug shell whistle"
)


def say(rng: Random, templates: tuple[str, ...], **parts: object) -> str:
    """Word a problem: fill one of the templates, chosen at random."""
    return rng.choice(templates).format(**parts)


def capital(sentence: str) -> str:
    """Raise the first letter and leave the rest, unlike str.capitalize."""
    return sentence[:1].upper() + sentence[1:]
