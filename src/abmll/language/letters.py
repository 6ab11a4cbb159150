"""answer = "auto": whether a model answers by letters, found on a few rows without their labels.

A model that has learned letters gives the letter of the choice it means, wherever the choice is listed. One that has
not says A, or nothing in particular, whatever A stands for. So each row is put twice, the second time with its choices
rotated by one place, and both answers are compared by what they stand for.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from torch import Tensor

from abmll.core.types import Example

LETTERS = string.ascii_uppercase
"""What names the choices, in this order."""
NEEDED = 0.2
"""The agreement from which on letters are taken. Measured: -0.9 to 0 where they are not known (docs/real-model.md)."""
ROWS = 16
"""How many rows are put, twice each."""
Item = TypeVar("Item")


def letters_fit(rows: Sequence[Example]) -> bool:
    """Whether there is a letter for every choice."""
    return all(len(row.choices) <= len(LETTERS) for row in rows)


def letter_agreement(log_probs: Callable[[Sequence[Example]], Tensor], rows: Sequence[Example]) -> float:
    """How far answers by letters follow what the letters stand for: 1 entirely, 0 not at all, -1 they follow place.

    With s the probability that two answers to a question of k choices, drawn from the model's with the choices in two
    orders, are the same choice: (s - 1/k) / (1 - 1/k), averaged over rows. Labels are not looked at.

    Args:
        log_probs: The model's log-probabilities (rows, choices) of the choices as listed, answered by letters.
        rows: Questions of two choices or more; others are left out, as are demonstrations.

    Returns:
        The mean agreement; 0 if no row has two choices.

    Source: after the proportion of plurality agreement of Robinson, Rytting & Wingate (2023), arXiv:2210.12353, with
        two orders in place of all, probabilities in place of the likeliest answer, and chance taken off.
    """
    asked = [row._replace(demonstrations=()) for row in rows if len(row.choices) > 1]
    if not asked:
        return 0.0
    turned = [row._replace(choices=(*row.choices[1:], row.choices[0])) for row in asked]
    before, after = (log_probs(some).double().exp() for some in (asked, turned))
    agreements = []
    for index, row in enumerate(asked):
        count = len(row.choices)
        # choice 1 stands first in the second order, choice 0 last
        same = float((before[index, :count] * after[index, :count].roll(1)).sum())
        agreements.append((same - 1 / count) / (1 - 1 / count))
    return sum(agreements) / len(agreements)


def some_of_each(groups: Sequence[Sequence[Item]], count: int = ROWS) -> list[Item]:
    """At most `count` items, the groups taking turns."""
    return list(islice(_in_turn(groups), count))


def _in_turn(groups: Sequence[Sequence[Item]]) -> Iterator[Item]:
    for place in range(max(map(len, groups), default=0)):
        for group in groups:
            if place < len(group):
                yield group[place]
