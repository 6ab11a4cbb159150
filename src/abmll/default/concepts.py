"""The suite for a real language model: which of 48 words fall under a concept, as one that knows English can say.

The embedded model's tasks ask for the hidden taste of one person, which a handful of steps does not teach a real model.
These ask for what it knows, in a form that it does not know yet: 16 concepts of three families are trained on, the test
side has 12 concepts of two other families.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import NamedTuple

FILE = Path(__file__).parent / "concepts.toml"
SPLITS = {
    "train": ("animals", "food", "household"),
    "validation": ("geography",),
    "test": ("people", "matter"),
}
"""Which families of concepts each split holds."""
CHOICES = ("no", "yes")


class Word(NamedTuple):
    """A row: a word, and whether it falls under the task's concept (the index of its choice)."""

    prompt: str
    target: int


class Concept(NamedTuple):
    """A task: half of its words are of the concept, a quarter of others of its family, a quarter of other families."""

    name: str
    question: str
    family: str
    choices: tuple[str, ...]
    rows: list[Word]


def concept_tasks(seed: int = 0) -> dict[str, list[Concept]]:
    """Every task of the suite, by split. seed: other seeds draw other words that do not fall under a concept."""
    families: dict[str, dict[str, dict[str, str]]] = tomllib.loads(FILE.read_text(encoding="utf-8"))
    return {
        split: [_draw(families, family, name, seed) for family in held for name in families[family]]
        for split, held in SPLITS.items()
    }


def _draw(families: Mapping[str, Mapping[str, Mapping[str, str]]], family: str, name: str, seed: int) -> Concept:
    own = families[family][name]
    random = Random(f"concepts/{seed}/{name}")

    def words_of(others: Mapping[str, Mapping[str, str]]) -> list[str]:
        return [
            word
            for other, concept in others.items()
            if other != name and other not in own.get("unlike", ())
            for word in concept["words"].split(", ")
        ]

    inside = own["words"].split(", ")
    near = random.sample(words_of(families[family]), len(inside) // 2)
    far = [word for other in families if other != family for word in words_of(families[other])]
    outside = near + random.sample(far, len(inside) - len(near))
    rows = [Word(word, 1) for word in inside] + [Word(word, 0) for word in outside]
    random.shuffle(rows)
    return Concept(name, own["question"], family, CHOICES, rows)
