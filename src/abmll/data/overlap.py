"""Rows that several tasks share, so that no test row was ever trained on."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from itertools import combinations

from abmll.data.task import Task


def normalised(text: str) -> str:
    """Case folded, every run of white space one space, none at the ends: what counts as the same input."""
    return " ".join(text.casefold().split())


def input_keys(task: Task) -> set[bytes]:
    """The keys of a task's distinct inputs, support pool included."""
    rows = (*task.examples, *task.support_pool)
    return {input_key(row.prompt) for row in rows}


def input_key(prompt: str) -> bytes:
    """The key of one input: 16 bytes of BLAKE2b of the normalised text."""
    return hashlib.blake2b(normalised(prompt).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def shared_inputs(tasks: Iterable[Task]) -> dict[tuple[str, str], int]:
    """How many distinct inputs each pair of tasks shares, for pairs that share any."""
    holders: dict[bytes, list[str]] = defaultdict(list)
    for task in tasks:
        for key in input_keys(task):
            holders[key].append(task.name)
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for names in holders.values():
        for pair in combinations(names, 2):
            counts[pair] += 1
    return dict(counts)
