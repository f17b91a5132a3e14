"""Short phrases out of four languages: a number, an adjective and a plural noun, put into English.

The phrases of the test split are new while their words turn up in training too: a lexicon and an order of words are to
be learnt. Swahili keeps to animals, whose agreement is regular; nothing needs a letter outside ASCII.
"""

from random import Random

from topiclora_cli.data.families.example import Draft, Family
from topiclora_cli.data.families.lexicon import say


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    """Read "gato cats, ..." as ((gato, cats), ...)."""
    return tuple((entry.split()[0], entry.split()[1]) for entry in text.split(","))


_NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

# language -> its words for 2..10, order of its words, nouns by gender, adjectives by gender
_LANGUAGES = {
    "Spanish": (
        "dos tres cuatro cinco seis siete ocho nueve diez",
        "{number} {noun} {adjective}",
        {
            "m": "perros dogs, gatos cats, libros books, caballos horses, barcos boats, zapatos shoes",
            "f": "casas houses, mesas tables, flores flowers, puertas doors, sillas chairs, manzanas apples",
        },
        {
            "m": "rojos red, negros black, blancos white, viejos old, nuevos new, amarillos yellow, verdes green",
            "f": "rojas red, negras black, blancas white, viejas old, nuevas new, amarillas yellow, verdes green",
        },
    ),
    "French": (
        "deux trois quatre cinq six sept huit neuf dix",
        "{number} {noun} {adjective}",
        {
            "m": "chiens dogs, chats cats, livres books, chevaux horses, bateaux boats, chapeaux hats",
            "f": "maisons houses, tables tables, fleurs flowers, portes doors, chaises chairs, pommes apples",
        },
        {
            "m": "rouges red, noirs black, blancs white, verts green, jaunes yellow, bleus blue, gris gray",
            "f": "rouges red, noires black, blanches white, vertes green, jaunes yellow, bleues blue, grises gray",
        },
    ),
    "Indonesian": (
        "dua tiga empat lima enam tujuh delapan sembilan sepuluh",
        "{number} {noun} {adjective}",
        {
            "": "anjing dogs, kucing cats, buku books, kuda horses, perahu boats, rumah houses, meja tables, "
            "bunga flowers, pintu doors, kursi chairs, apel apples, burung birds"
        },
        {"": "merah red, hitam black, putih white, hijau green, kuning yellow, biru blue, besar big, kecil small"},
    ),
    "Swahili": (
        "wawili watatu wanne watano sita saba wanane tisa kumi",
        "{noun} {adjective} {number}",
        {
            "": "mbwa dogs, paka cats, farasi horses, simba lions, tembo elephants, ndege birds, mbuzi goats, "
            "nyoka snakes, punda donkeys, sungura rabbits, twiga giraffes, kuku chickens"
        },
        {"": "wakubwa big, wadogo small, weusi black, weupe white, wekundu red, wanene fat, warefu tall"},
    ),
}
_ASK = (
    "Translate from {language} to English: {phrase}",
    'What does the {language} phrase "{phrase}" mean in English?',
    "{language}: {phrase}\nEnglish?",
    'Say "{phrase}" ({language}) in English.',
    'In {language} someone writes "{phrase}". Give the English.',
)


def _phrase_translation(rng: Random) -> Draft:
    language = rng.choice(list(_LANGUAGES))
    numbers, order, nouns, adjectives = _LANGUAGES[language]
    number, english_number = rng.choice(list(zip(numbers.split(), _NUMBERS, strict=True)))
    gender = rng.choice(list(nouns))
    noun, english_noun = rng.choice(_pairs(nouns[gender]))
    adjective, english_adjective = rng.choice(_pairs(adjectives[gender]))
    phrase = order.format(number=number, noun=noun, adjective=adjective)
    question = say(rng, _ASK, language=language, phrase=phrase)
    return Draft(question, f"{english_number} {english_adjective} {english_noun}", f"{language} {phrase}")


FAMILIES = (
    Family(
        "phrase_translation",
        ("low-resource language", "multilingual", "non-English", "translation"),
        "free",
        "put a Spanish, French, Indonesian or Swahili phrase into English",
        _phrase_translation,
    ),
)
