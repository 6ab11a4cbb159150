"""The wide form of the generated suite: enough test tasks and unseen families to tell methods apart.

Its tasks are drawn as those of `abmll.default.tasks` are, from the same distribution of tastes, and are other tasks: no
rule is shared. What is new are families that only one side holds. Neither meta-training nor the pretraining of the
embedded model ever asks their questions; two of the test side's four ("home", "post") answer in words that are answers
nowhere else, and in one ("sale") yes is what people say of what they do not like. The validation side has two families
of its own, one of each of these two kinds, so that a setting is chosen by how it does on families it was not trained
on, without touching those that it is evaluated by.
"""

from __future__ import annotations

from random import Random

from abmll.default.tasks import FAMILIES, Family, Ruled, draw_task
from abmll.default.vocabulary import NAMES

WIDE_FAMILIES = FAMILIES | {
    family.name: family
    for family in (
        Family("stable", "Which box does the keeper choose?", ("animal",), ("low", "middle", "top")),
        # of the validation side alone
        Family("quit", "Does the guest leave it?", ("place",), ("yes", "no")),
        Family("meal", "Where does the owner feed him?", ("person",), ("barn", "shop", "garden")),
        # of the test side alone, beside "gift"
        Family("sale", "Does the owner sell it?", ("object", "place"), ("yes", "no")),
        Family("home", "Where does the owner keep it?", ("animal",), ("cave", "farm", "hall")),
        Family("post", "Where does the king hire him?", ("person",), ("mill", "port", "inn", "town")),
    )
}

WIDE_COUNTS = {
    "train": {"taste": 10, "pet": 10, "trip": 10, "hire": 10, "shelf": 10, "stable": 10},
    "validation": {"taste": 1, "pet": 1, "trip": 1, "hire": 1, "shelf": 1, "stable": 1, "quit": 3, "meal": 3},
    "test": {
        **{"taste": 4, "pet": 4, "trip": 4, "hire": 4, "shelf": 4, "stable": 4},
        **{"gift": 2, "gift3": 2, "gift4": 2, "sale": 6, "home": 6, "post": 6},
    },
}
"""How many tasks of which family each split holds."""


def wide_tasks(seed: int = 0, num_rows: int = 300) -> dict[str, list[Ruled]]:
    """Every task of the wide suite with its rule and true probabilities, by split; no description occurs twice."""
    names = {family: iter(NAMES) for family in WIDE_FAMILIES}
    taken = set[str]()
    return {
        split: [
            draw_task(Random(f"wide/{seed}/{name}"), name, WIDE_FAMILIES[family], num_rows, taken)
            for family, count in counts.items()
            for name in (f"{family}-{next(names[family]).lower()}" for _ in range(count))
        ]
        for split, counts in WIDE_COUNTS.items()
    }
