"""The generated tasks: each asks what one person, with a hidden taste, would make of a described thing.

A task's rule is a weight for every attribute, drawn from a distribution that all tasks share (`TASTE`): attributes that
nearly everybody judges alike, attributes on which people differ, and attributes that hardly matter. That distribution
is what meta-learning can find out from many tasks. The label of a row is drawn, not decided, by `choice_probs`, so that
even a reader who knows the rule is not certain; `ceiling` says how good such a reader is.
"""

from __future__ import annotations

import math
from random import Random
from typing import NamedTuple

from abmll.default.vocabulary import KINDS, NAMES
from abmll.default.world import Thing, choice_probs, describe, draw_choice, draw_thing, score

STRENGTH = 3.6
"""Euclidean norm of every rule: how far labels are from coin tosses. Equal norms make tasks equally hard."""

TASTE = {
    "price": (-1.0, 0.4),
    "temper": (-1.0, 0.4),
    "heat": (1.0, 0.4),
    "age": (0.9, 0.4),
    "sound": (-0.5, 1.5),
    "size": (-0.2, 1.5),
    "shade": (-0.2, 1.5),
    "speed": (0.2, 0.2),
    "weight": (0.0, 0.1),
    "touch": (0.0, 0.1),
}
"""Attribute -> (mean, standard deviation over tasks) of a rule's weight, before the rule is scaled to `STRENGTH`."""


class Family(NamedTuple):
    """Tasks that ask the same question in the same words: whose taste it is must be found out from the examples.

    `choices` go from low score to high score.
    """

    name: str
    question: str
    kinds: tuple[str, ...]
    choices: tuple[str, ...]

    @property
    def label(self) -> str:
        """What tasks record as their family: "gift" for "gift3" too, which differs in the number of choices alone."""
        return self.name.rstrip("0123456789")


FAMILIES = {
    family.name: family
    for family in (
        Family("taste", "Does the buyer like it?", ("object",), ("no", "yes")),
        Family("pet", "Does the keeper feed it?", ("animal",), ("no", "yes")),
        Family("trip", "Does the guest stay there?", ("place",), ("leave", "stay")),
        Family("hire", "Does the owner hire him?", ("person",), ("no", "yes")),
        Family("shelf", "Which shelf does the seller choose?", ("object",), ("low", "middle", "top")),
        Family("gift", "What does the owner do with it?", ("object", "animal"), ("sell", "keep")),
        Family("gift3", "What does the owner do with it?", ("object", "animal"), ("sell", "lend", "keep")),
        Family("gift4", "What does the owner do with it?", ("object", "animal"), ("burn", "sell", "lend", "keep")),
    )
}

COUNTS = {
    "train": {"taste": 5, "pet": 5, "trip": 5, "hire": 5, "shelf": 4},
    "validation": {"taste": 2, "pet": 1, "trip": 1, "hire": 1, "shelf": 1},
    "test": {"taste": 1, "pet": 1, "trip": 1, "hire": 1, "shelf": 1, "gift": 3, "gift3": 1, "gift4": 1},
}
"""How many tasks of which family each split holds. No train or validation task is a gift task."""


class Judgement(NamedTuple):
    """What a person makes of a thing: its description, each choice's probability, the one that was drawn."""

    thing: Thing
    prompt: str
    probs: tuple[float, ...]
    target: int


class Ruled(NamedTuple):
    """A generated task together with the truth behind it."""

    name: str
    family: str
    question: str
    choices: tuple[str, ...]
    rule: dict[str, float]
    rows: tuple[Judgement, ...]


class Ceiling(NamedTuple):
    """How well one predicts the drawn labels with the true rule in hand: accuracy, and NLL in nats."""

    accuracy: float
    nll: float


def draw_rule(rng: Random, kinds: tuple[str, ...]) -> dict[str, float]:
    """A rule over the attributes of `kinds`, of norm `STRENGTH`."""
    names = sorted({name for kind in kinds for name in KINDS[kind].loadings})
    weights = {name: rng.gauss(*TASTE[name]) for name in names}
    norm = math.sqrt(sum(weight**2 for weight in weights.values()))
    return {name: STRENGTH * weight / norm for name, weight in weights.items()}


def draw_task(rng: Random, name: str, family: Family, num_rows: int, taken: set[str]) -> Ruled:
    """A task of `num_rows` rows, whose descriptions are not among those `taken` and join them."""
    rule = draw_rule(rng, family.kinds)
    rows: list[Judgement] = []
    while len(rows) < num_rows:
        thing = draw_thing(rng, KINDS[rng.choice(family.kinds)])
        prompt = describe(rng, thing)
        if prompt in taken:
            continue
        taken.add(prompt)
        probs = tuple(choice_probs(score(thing, rule), len(family.choices)))
        rows.append(Judgement(thing, prompt, probs, draw_choice(rng, probs)))
    return Ruled(name, family.label, family.question, family.choices, rule, tuple(rows))


def ruled_tasks(seed: int = 0, num_rows: int = 300) -> dict[str, list[Ruled]]:
    """Every task of the suite with its rule and true probabilities, by split. Each is named after
    somebody; no description occurs twice."""
    names, taken = iter(NAMES), set[str]()
    return {
        split: [
            draw_task(Random(f"task/{seed}/{who}"), f"{family}-{who.lower()}", FAMILIES[family], num_rows, taken)
            for family, count in counts.items()
            for _, who in zip(range(count), names, strict=False)
        ]
        for split, counts in COUNTS.items()
    }


def ceiling(task: Ruled) -> Ceiling:
    """Accuracy and NLL of the Bayes-optimal predictor that knows the rule, on the rows as drawn."""
    hits = [row.target == max(range(len(row.probs)), key=row.probs.__getitem__) for row in task.rows]
    nll = [-math.log(row.probs[row.target]) for row in task.rows]
    return Ceiling(sum(hits) / len(hits), sum(nll) / len(nll))
