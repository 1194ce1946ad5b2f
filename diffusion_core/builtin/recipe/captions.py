"""Captions that are true of a picture and name everything unusual about it.

A caption without a background means white, without a number one, without a place the middle, and
without a size the normal one. A caption without a style means Fluent 3D: captions of Noto pictures
always say `flat` or `noto`.
"""

from dataclasses import dataclass

from nightpress.diffusion_core.builtin.recipe import grammar
from nightpress.diffusion_core.builtin.recipe.colours import WHITE
from nightpress.diffusion_core.builtin.recipe.dice import Dice
from nightpress.diffusion_core.builtin.recipe.layout import Size
from nightpress.diffusion_core.builtin.recipe.sources import Concept, Style

_PLAIN = "{it}"
_STYLED: dict[Style, tuple[str, ...]] = {
    "fluent-3d": (
        *[_PLAIN] * 7,
        "a picture of {it}",
        "an icon of {it}",
        "a 3d emoji of {it}",
        "{it}, 3d",
        "{it}, fluent style",
    ),
    "noto": (
        "a flat emoji of {it}",
        "a flat picture of {it}",
        "a flat icon of {it}",
        "{it}, flat",
        "{it}, flat style",
        "{it}, flat emoji",
        "{it}, noto style",
        "{it}, noto emoji",
    ),
}
_PLACES = {
    "left": ("on the left", "on the left side", "at the left"),
    "right": ("on the right", "on the right side", "at the right"),
    "top": ("at the top",),
    "bottom": ("at the bottom",),
    "top left": ("in the top left corner", "at the top left", "in the upper left corner"),
    "top right": ("in the top right corner", "at the top right", "in the upper right corner"),
    "bottom left": ("in the bottom left corner", "at the bottom left", "in the lower left corner"),
    "bottom right": (
        "in the bottom right corner",
        "at the bottom right",
        "in the lower right corner",
    ),
}
_SIZES: dict[Size, tuple[str, ...]] = {
    "normal": ("",),
    "small": ("small ", "little ", "tiny "),
    "large": ("large ", "big ", "huge "),
}


@dataclass(frozen=True)
class Facts:
    """What a picture shows: the thing, its style and its layout."""

    label: str
    hexcode: str
    style: Style
    background: str = WHITE
    count: int = 1
    position: str = "center"
    size: Size = "normal"

    @property
    def is_plain(self) -> bool:
        """Whether it shows one thing in the middle, at normal size, on white."""
        return self == Facts(self.label, self.hexcode, self.style)


def captions(concept: Concept, facts: Facts, dice: Dice, num: int = 6) -> list[str]:
    """Up to `num` different random captions; those of a plain picture favour the bare label."""
    texts = [_caption(concept, facts, dice) for _ in range(2 * num)]
    return list(dict.fromkeys(texts))[:num]


def plain_caption(facts: Facts) -> str:
    """The simplest caption that states all facts, for evaluation and lists of prompts."""
    label = grammar.spoken(facts.label)
    size = "" if facts.size == "normal" else facts.size + " "
    thing = grammar.with_article(size + label)
    words = [grammar.count_phrases(label, facts.count)[0] if facts.count > 1 else thing]
    if facts.position != "center":
        words.append(_PLACES[facts.position][0])
    if facts.background != WHITE:
        words.append(f"on {grammar.with_article(facts.background)} background")
    text = " ".join(words)
    return text if facts.style == "fluent-3d" else f"a flat emoji of {text}"


def _caption(concept: Concept, facts: Facts, dice: Dice) -> str:
    words = [_thing(concept, facts, dice)]
    if facts.position != "center":
        words.append(dice.one_of(_PLACES[facts.position]))
    background = _background(facts, dice)
    if background and dice.below(5) == 0:
        text = dice.one_of(_STYLED[facts.style]).format(it=" ".join(words))
        return f"{text}, {_grey(facts.background, dice)} background"
    return dice.one_of(_STYLED[facts.style]).format(it=" ".join([*words, *background]))


def _thing(concept: Concept, facts: Facts, dice: Dice) -> str:
    label = grammar.spoken(concept.label)
    if facts.count > 1:
        return dice.one_of(grammar.count_phrases(label, facts.count))
    size = dice.one_of(_SIZES[facts.size])
    if size:
        sized = size + label
        return sized if grammar.with_article(label) == label else f"a {sized}"
    named = dice.one_of([grammar.with_article(label)] * 2 + [label])
    if not (concept.tags and facts.position == "center"):
        return named
    manner = dice.below(8)
    if manner == 0:
        return f"{label}, {_some_tags(concept, dice)}"
    if manner == 1 and facts.is_plain:
        return _some_tags(concept, dice)
    return named


def _some_tags(concept: Concept, dice: Dice) -> str:
    return ", ".join(dice.shuffled(concept.tags)[: 3 + dice.below(3)])


def _background(facts: Facts, dice: Dice) -> list[str]:
    if facts.background != WHITE:
        colour = _grey(facts.background, dice)
        return [
            dice.one_of([f"on {grammar.with_article(colour)} background"] * 3 + [f"on {colour}"])
        ]
    return ["on a white background"] if dice.below(6) == 0 else []


def _grey(colour: str, dice: Dice) -> str:
    return dice.one_of(("gray", "grey")) if colour == "gray" else colour
