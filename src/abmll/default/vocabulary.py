"""The words of the generated world: attributes with graded words, kinds of things, nouns and names."""

from __future__ import annotations

from typing import NamedTuple

LEVELS = (-1.5, -0.5, 0.5, 1.5)
"""The hidden value that stands behind each of an attribute's four words."""


class Attribute(NamedTuple):
    """A graded property. `words` go from the lowest level to the highest."""

    name: str
    words: tuple[str, str, str, str]


class Kind(NamedTuple):
    """A kind of thing: what it is called, how one speaks of it, and how its attributes hang together.

    `loadings` maps an attribute to its correlation with the thing's one hidden factor: attributes with large
    loadings move together, so that a few examples cannot tell which of them a label follows.
    """

    name: str
    nouns: tuple[str, ...]
    pronoun: str
    loadings: dict[str, float]


ATTRIBUTES = {
    attribute.name: attribute
    for attribute in (
        Attribute("size", ("tiny", "small", "big", "huge")),
        Attribute("price", ("cheap", "modest", "dear", "costly")),
        Attribute("temper", ("gentle", "calm", "cross", "fierce")),
        Attribute("speed", ("lazy", "slow", "quick", "swift")),
        Attribute("age", ("new", "fresh", "old", "ancient")),
        Attribute("shade", ("white", "pale", "dark", "black")),
        Attribute("weight", ("airy", "light", "heavy", "massive")),
        Attribute("sound", ("silent", "quiet", "noisy", "loud")),
        Attribute("touch", ("silky", "smooth", "rough", "spiky")),
        Attribute("heat", ("icy", "cool", "warm", "hot")),
    )
}

KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "object",
            ("hat", "lamp", "chair", "bell", "cup", "clock", "kite", "drum", "box", "coat", "vase", "wheel"),
            "It",
            {"size": 0.8, "weight": 0.8, "price": 0.7, "age": 0.5, "touch": -0.4, "shade": 0.3},
        ),
        Kind(
            "animal",
            ("cat", "dog", "goat", "horse", "hen", "fox", "pig", "bear", "mouse", "owl", "sheep", "duck"),
            "It",
            {"size": 0.7, "temper": 0.7, "sound": 0.8, "speed": -0.5, "touch": 0.5, "shade": 0.3},
        ),
        Kind(
            "place",
            ("inn", "barn", "farm", "cave", "park", "town", "lake", "hall", "mill", "port", "garden", "shop"),
            "It",
            {"size": 0.7, "price": 0.7, "sound": 0.8, "heat": 0.4, "age": -0.5, "shade": -0.4},
        ),
        Kind(
            "person",
            ("boy", "man", "king", "cook", "smith", "guard", "monk", "clerk", "thief", "poet", "baker", "sailor"),
            "He",
            {"size": 0.6, "temper": 0.7, "sound": 0.8, "speed": 0.5, "age": -0.5, "price": 0.4},
        ),
    )
}

OPINION = {
    "size": -0.4,
    "price": -1.0,
    "temper": -1.0,
    "speed": 0.6,
    "shade": -0.4,
    "weight": -0.9,
    "sound": -0.6,
    "touch": -1.0,
    "heat": 0.8,
}
"""What people in general make of each attribute: the one rule that the pretraining text follows."""

ASPECTS = {
    "safe": {"temper": -2.4, "speed": -1.4, "sound": -1.0, "touch": -1.0},
    "handy": {"size": -1.8, "weight": -2.4, "speed": 1.0},
    "grand": {"size": 2.0, "price": 1.8, "age": 1.2, "weight": 1.0},
    "fun": {"speed": 1.8, "sound": 1.8, "shade": -1.2, "age": -1.0},
    "cosy": {"touch": -1.8, "heat": 1.8, "sound": -1.4, "temper": -1.4},
    "gloomy": {"shade": 2.2, "heat": -1.6, "age": 1.4},
    "modern": {"age": -2.6, "touch": -1.0, "shade": -1.0, "speed": 1.2},
    "humble": {"price": -2.4, "size": -1.2, "sound": -1.2, "temper": -1.2},
    "tough": {"touch": 1.8, "weight": 1.4, "temper": 1.8, "size": 1.4},
    "rare": {"price": 1.8, "age": 1.8, "heat": -1.2},
}
"""Other things that one can say of a thing: each a rule of its own, weights on the hidden values."""

_NAMES = """
Ann Ben Cora Dan Eve Finn Gail Hugo Iris Jack Kate Leo Mia Ned Olga Paul Rosa Sam Tess Umar Vera Will Xena Yara
Zack Abel Beth Carl Dora Erik Faye Glen Hana Ivan Jane Karl Lena Mark Nina Otto Pia Ralf Sara Todd Uma Vlad Wendy
Yuri Zoe Alma Boris Clara Doug Elsa Fred Greta Hank Inga Joel Kira Lars Mona Nils Opal
"""

NAMES = tuple(_NAMES.split())
"""Who appears in stories; tasks are named after the first of them, and never name them in their text."""

_QUESTION_WORDS = """
Will {who} like it Would feed Does stay there hire him Which shelf does choose What will do with
"""

QUESTION_WORDS = tuple(_QUESTION_WORDS.split())
"""Words of questions that the tokenizer learned besides those of the world; part of the recipe."""
