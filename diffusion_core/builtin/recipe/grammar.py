"""English grammar for labels: spoken forms of Unicode's names, articles and plurals.

Careful rather than complete: if a plural is uncertain, `count_phrases` says "two copies of".
"""

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four"}
_IRREGULAR = {
    "man": "men",
    "woman": "women",
    "person": "people",
    "child": "children",
    "mouse": "mice",
    "goose": "geese",
    "tooth": "teeth",
    "foot": "feet",
    "ox": "oxen",
    "wolf": "wolves",
    "leaf": "leaves",
    "knife": "knives",
    "loaf": "loaves",
    "shelf": "shelves",
    "elf": "elves",
    "potato": "potatoes",
    "tomato": "tomatoes",
    "mango": "mangoes",
    "volcano": "volcanoes",
    "mosquito": "mosquitoes",
    "superhero": "superheroes",
    "cactus": "cacti",
    "octopus": "octopuses",
    "die": "dice",
}
_SAME = _words("fish sheep deer bison moose shrimp squid boar goldfish blowfish jellyfish")
_NO_COUNT = _words(
    """
    rice bread sushi tea milk food honey ice hair water music money fire salt butter cheese bacon
    broccoli garlic popcorn chocolate spaghetti soup sake corn mate fog snow rain lightning weather
    wind mail clothing tennis badminton golf hockey luggage seaweed coral ginger yarn soap dynamite
    evil poo sweat research claus fuji art
    space night day time sleep love speed power life luck junk broth curry oden dango falafel
    fondue hibiscus lotus fries wrestling polo cricket lacrosse curling
    """
)
_NOT_NOUNS = _words(
    """
    up down left right on off back end soon top new free cool ok ng out away apart together open
    closed red green blue yellow black white brown orange purple pink grey gray happy sad angry bald
    old asleep ill round struck kneeling standing walking running cooking camping bowling done
    locked unlocked prohibited registered customs skis wireless foggy multiply divide plus minus
    information radioactive uppercase lowercase eighteen collision dizzy dvd dna wood mx
    """
)
_JOINTS = re.compile(
    r" (?:with|without|of|in|on|over|at|and|behind|showing|holding|to|for|the|a|an|no|not)\b"
)
_NAMES = _words(
    "santa mrs. mx mount aries taurus gemini cancer leo virgo libra scorpio sagittarius capricorn "
    "aquarius pisces ophiuchus tokyo"
)
_PEOPLE = _words("person man woman people men women face")
_SPOKEN_LETTERS = re.compile(r"^(?:[AEFHILMNORSX]|ATM|NG|SOS|OK)\b")


def spoken(label: str) -> str:
    """Unicode's label in spoken form: `woman: bald` -> `bald woman`, `keycap: 3` -> `keycap 3`."""
    text = label.replace("\u2019", "'").replace("\u201c", '"').replace("\u201d", '"')
    whole, _, part = text.partition(": ")
    if not part:
        return text
    if part == "bald":
        return f"bald {whole}"
    if part == "beard":
        return f"{whole} with a beard"
    if part.endswith("hair"):
        return f"{whole} with {part}"
    if ", " in part:
        return f"{whole} of {' and '.join(with_article(who) for who in part.split(', '))}"
    return f"{whole} {part}"


def head(label: str) -> str:
    """The head noun of a label: `nest with eggs` -> `nest`."""
    first, *rest = label.lower().split()
    if first in _PEOPLE and any(word.endswith("ing") for word in rest):
        return first
    return _JOINTS.split(label, maxsplit=1)[0].split()[-1].lower()


def is_plural(label: str) -> bool:
    """Whether a label already names several things, or a pair."""
    noun = head(label)
    if noun in ("people", "men", "women"):
        return True
    return noun.endswith("s") and not noun.endswith(
        ("ss", "us", "is", "ros", "customs", "wireless")
    )


def with_article(label: str) -> str:
    """`apple` -> `an apple`; proper names, plurals and uncountable nouns get no article."""
    first = label.split()[0].lower()
    if is_plural(label) or first in _NAMES or head(label) in _NO_COUNT:
        return label
    if _SPOKEN_LETTERS.match(label) or first.startswith(("hour", "x-ray")):
        return f"an {label}"
    sounds_like_y_or_w = first.startswith(("uni", "uk", "eu", "one", "ewe", "up!"))
    vowel = first[0] in "aeiou" and (not sounds_like_y_or_w or first.startswith("up"))
    return f"{'an' if vowel else 'a'} {label}"


def plural(label: str) -> str | None:
    """`red apple` -> `red apples`; None if the plural is uncertain."""
    words = label.split()
    last = words[-1]
    moving = any(word.endswith(("ing", "ed", "ly")) for word in words[1:])
    if (
        not all(re.fullmatch(r"[a-z\-]+", word) for word in words)
        or _JOINTS.search(label)
        or moving
        or (words[0] in _PEOPLE and len(words) > 1)
        or is_plural(label)
        or last in _NO_COUNT | _NOT_NOUNS
        or "-" in last
    ):
        return None
    return " ".join([*words[:-1], _plural_of(last)])


def _plural_of(noun: str) -> str:
    if noun in _SAME:
        return noun
    for ending, result in _IRREGULAR.items():
        if noun == ending or (ending in ("man", "woman") and noun.endswith(ending)):
            return noun[: -len(ending)] + result
    if re.search(r"(?:s|x|z|ch|sh)$", noun):
        return noun + "es"
    if re.search(r"[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    return noun + "s"


def count_phrases(label: str, count: int) -> list[str]:
    """Phrases for `count` (2 to 4) things of a label; each of them names the number."""
    phrases = [
        f"{NUMBERS[count]} copies of {with_article(label)}",
        f"{count} x {label}",
    ]
    several = plural(label)
    if several is not None:
        phrases = [f"{NUMBERS[count]} {several}", f"{count} {several}"] * 2 + phrases
    return phrases
