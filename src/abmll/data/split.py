"""The split of a suite: which tasks are held out, and that no row stands on two sides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Literal

from abmll.core.errors import AbmllError
from abmll.core.seeds import derive_seed
from abmll.data.overlap import input_key, input_keys, shared_inputs
from abmll.data.task import Task

Side = Literal["train", "validation", "test"]
SIDES: tuple[Side, ...] = ("train", "validation", "test")
Overlap = Literal["error", "drop", "keep"]


def groups(tasks: Sequence[Task], shares_rows: Iterable[Sequence[str]]) -> list[list[Task]]:
    """The tasks in groups that must not be torn apart, each in the order given.

    Two tasks are in one group if they are of one family, are said to share rows, or have an input in common.
    A task without a family is its own.
    """
    leader = {task.name: task.name for task in tasks}

    def find(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    def join(first: str, second: str) -> None:
        leader[find(second)] = find(first)

    of_family: dict[str, str] = {}
    for task in tasks:
        if task.family:
            join(of_family.setdefault(task.family, task.name), task.name)
    for first, second in shared_inputs(tasks):
        join(first, second)
    for names in shares_rows:
        present = [name for name in names if name in leader]
        for name in present[1:]:
            join(present[0], name)
    found: dict[str, list[Task]] = {}
    for task in tasks:
        found.setdefault(find(task.name), []).append(task)
    return list(found.values())


def hold_out(
    tasks: Sequence[Task], fraction: float, seed: int, shares_rows: Iterable[Sequence[str]] = ()
) -> tuple[list[Task], list[Task]]:
    """Splits off about `fraction` of the tasks, in whole groups; returns (kept, held out), in the order given.

    The groups are shuffled by `seed` and held out one after the other, each unless it would take the number
    of tasks above `fraction`; if that holds out nothing, the smallest group is. A pure function of the tasks
    and the seed.

    Raises AbmllError if the fraction is not in (0, 1), or all tasks are one group.
    """
    if not 0 < fraction < 1:
        raise AbmllError(f"held_out={fraction}: give a fraction of the tasks between 0 and 1, e.g. 0.3")
    found = groups(tasks, shares_rows)
    if len(found) < 2:
        raise AbmllError(
            f"nothing can be held out: all {len(tasks)} tasks form one group, by family or by shared rows. "
            "Add tasks of another family, give the tasks families that differ, or list test_tasks in a suite TOML."
        )
    shuffled = sorted(found, key=lambda group: derive_seed("held out", seed, group[0].name))
    room = fraction * len(tasks)
    held: set[str] = set()
    for group in shuffled:
        if len(held) + len(group) <= room:
            held |= {task.name for task in group}
    if not held:
        held = {task.name for task in min(shuffled, key=len)}
    return [task for task in tasks if task.name not in held], [task for task in tasks if task.name in held]


def separate(
    suite: str, overlap: Overlap, sides: Mapping[Side, Sequence[Task]], shares_rows: Iterable[Sequence[str]]
) -> tuple[dict[Side, tuple[Task, ...]], list[str]]:
    """The sides without any input on two of them, and a note on whatever was dropped or kept.

    Args:
        overlap: "error" refuses inputs on two sides; "drop" takes them from the side that comes first in train,
            validation, test; "keep" lets them pass with a note. Tasks declared to share rows (`shares_rows`) may share
            more than exact inputs, so "drop" refuses them too.

    Raises AbmllError naming the tasks, the number of inputs they share and what to do.
    """
    _check_names(suite, sides)
    names = {side: [task.name for task in sides[side]] for side in SIDES}
    notes = require_apart(suite, overlap, names, shares_rows)
    found = _across(sides)
    result = {side: tuple(sides[side]) for side in SIDES}
    if not found:
        return result, notes
    listed = "; ".join(
        f"{first.name!r} ({first_side}) and {second.name!r} ({second_side}) share {count} input{'s'[: count != 1]}"
        for first_side, first, second_side, second, count in found
    )
    if overlap == "keep":
        return result, [*notes, f"kept on two sides: {listed}"]
    if overlap == "error":
        raise AbmllError(
            f"suite {suite!r} would train on rows that it tests on: {listed}. Move such tasks to one side, exclude "
            'one of them, or set overlap = "drop" in the suite TOML to take the shared inputs out of training.'
        )
    later: set[bytes] = set()
    for side in reversed(SIDES):
        keys = [input_keys(task) for task in sides[side]]
        result[side] = tuple(_drop(suite, side, task, later) for task in sides[side])
        later = later.union(*keys)
    return result, [*notes, f"dropped from the first side named: {listed}"]


def require_apart(
    suite: str, overlap: Overlap, names: Mapping[Side, Sequence[str]], shares_rows: Iterable[Sequence[str]]
) -> list[str]:
    """Refuses tasks on different sides that are declared to share rows; needs their names only, no data.

    Returns a note on those that `overlap` = "keep" lets pass. Raises AbmllError with every such pair otherwise.
    """
    side_of: dict[str, set[Side]] = {}
    for side in SIDES:
        for name in names[side]:
            side_of.setdefault(name, set()).add(side)
    torn = [
        f"{first!r} and {second!r}"
        for group in shares_rows
        for first, second in combinations(group, 2)
        if first in side_of and second in side_of and side_of[first] != side_of[second]
    ]
    if torn and overlap != "keep":
        raise AbmllError(
            f"suite {suite!r}: tasks that are declared to share rows stand on different sides: {'; '.join(torn)}. "
            "Move them to one side, or exclude one of them."
        )
    return [f"declared to share rows, kept on two sides: {'; '.join(torn)}"] if torn else []


def _check_names(suite: str, sides: Mapping[Side, Sequence[Task]]) -> None:
    for side in SIDES:
        names = [task.name for task in sides[side]]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise AbmllError(f"suite {suite!r} lists {', '.join(map(repr, twice))} twice under {side}: keep one")


def _across(sides: Mapping[Side, Sequence[Task]]) -> list[tuple[Side, Task, Side, Task, int]]:
    """Every pair of tasks on different sides that have inputs in common, and how many."""
    keys = {side: [(task, input_keys(task)) for task in sides[side]] for side in SIDES}
    return [
        (first_side, first, second_side, second, len(ours & theirs))
        for first_side, second_side in combinations(SIDES, 2)
        for first, ours in keys[first_side]
        for second, theirs in keys[second_side]
        if not ours.isdisjoint(theirs)
    ]


def _drop(suite: str, side: Side, task: Task, keys: set[bytes]) -> Task:
    examples = tuple(row for row in task.examples if input_key(row.prompt) not in keys)
    if not examples:
        raise AbmllError(
            f'suite {suite!r}: no row of the {side} task {task.name!r} is left after overlap = "drop"; exclude it'
        )
    pool = tuple(row for row in task.support_pool if input_key(row.prompt) not in keys)
    return replace(task, examples=examples, support_pool=pool)
