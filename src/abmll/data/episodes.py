"""From tasks to episodes: which task, which rows to adapt on, which to be evaluated on.

Every draw is a pure function of its arguments. Randomness comes from the Philox counter-based generator,
keyed by the seed derived from what is drawn, so it depends neither on the order of access, nor on the
process, nor on Python's hash. Only raw 64-bit outputs are used: numpy promises those, but not its
`permutation`, to stay the same between releases.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from abmll.core.errors import AbmllError, unknown_name
from abmll.core.example import Episode, Example
from abmll.core.seeds import derive_seed
from abmll.data.task import Task

Size = int | tuple[int, int]
"""A number of rows, or an inclusive range (least, most) from which every episode draws its own."""
Order = Literal["random", "sequential"]
RowOrder = Literal["random", "file"]
"""Of a task's rows in an evaluation: drawn by the seed, or as they stand."""
ORDERS: tuple[Order, ...] = ("random", "sequential")


def random_words(count: int, *key: int | str) -> np.ndarray:
    """`count` uniform 64-bit integers that depend on `key` alone."""
    return np.random.Philox(key=derive_seed(*key)).random_raw(count)


def permutation(count: int, *key: int | str) -> list[int]:
    """A uniform permutation of range(count) that depends on `key` alone."""
    order: list[int] = np.argsort(random_words(count, *key), kind="stable").tolist()
    return order


def balanced_order(rows: Sequence[Example]) -> list[int]:
    """Positions of `rows`, ordered so that every prefix is as label-balanced as the rows allow.

    Labels (targets) take turns in the order of their first row; one that runs out drops out.
    """
    queues: dict[int | None, list[int]] = {}
    for position, row in enumerate(rows):
        queues.setdefault(row.target, []).append(position)
    longest = max((len(queue) for queue in queues.values()), default=0)
    return [queue[turn] for turn in range(longest) for queue in queues.values() if turn < len(queue)]


class EpisodeSampler:
    """Endless episodes over tasks; `sampler[i]` is a pure function of (tasks, seed, i).

    order="random": a task drawn uniformly (or with probability ∝ rows^`size_power`), then support and query
    rows drawn without replacement, both anew for every i.
    order="sequential": tasks in the order given, over and over; each visit takes the next rows of that task,
    and when they run out the task is permuted anew (the last rows of a pass that do not fill an episode are
    left out of that pass).
    Source: the training order of the published ABMLL recipe, there with support_size = 10 (5 batches of 2),
        query_size = 0.

    Args:
        seed: any integer.
        support_size: rows a visit, or a range (least, most) drawn anew for each episode (random order only).
            `query_size` may be 0.
        query_size: likewise.
        balanced: make the support set as label-balanced as the task allows (random order only).
        size_power: 0 visits every task equally often, 1 in proportion to its rows (random order only).

    Raises AbmllError if there is no task, a task has too few rows, or options contradict each other.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        seed: int,
        support_size: Size,
        query_size: Size,
        order: Order = "random",
        *,
        balanced: bool = False,
        size_power: float = 0.0,
    ) -> None:
        self.tasks = tuple(tasks)
        self.seed = int(seed)
        self.support_size = _size("support_size", support_size, least=1)
        self.query_size = _size("query_size", query_size, least=0)
        self.order = order
        self.balanced = balanced
        self.size_power = float(size_power)
        self._check()
        weights = np.array([float(len(task)) ** self.size_power for task in self.tasks])
        self._cumulative = np.cumsum(weights / weights.sum())

    def __getitem__(self, index: int) -> Episode:
        """Episode `index` (0, 1, 2, … without end)."""
        if isinstance(index, bool) or not isinstance(index, int) or index < 0:
            raise AbmllError(f"episode index {index!r}: episodes are counted 0, 1, 2, …")
        return self._random(index) if self.order == "random" else self._sequential(index)

    def __iter__(self) -> Iterator[Episode]:
        index = 0
        while True:
            yield self[index]
            index += 1

    def _random(self, index: int) -> Episode:
        draw = random_words(3, "episode", self.seed, index)
        position = np.searchsorted(self._cumulative, (int(draw[0]) >> 11) * 2.0**-53, side="right")
        number = min(int(position), len(self.tasks) - 1)
        task = self.tasks[number]
        num_support, num_query = _drawn(self.support_size, draw[1]), _drawn(self.query_size, draw[2])
        rows = _permuted(task.examples, "rows", self.seed, index)
        pool = _permuted(task.support_pool, "pool", self.seed, index) if task.support_pool else rows
        chosen = (balanced_order(pool) if self.balanced else range(len(pool)))[:num_support]
        if not task.support_pool:
            taken = set(chosen)
            rows = [row for position, row in enumerate(rows) if position not in taken]
        support = tuple(pool[position] for position in chosen)
        return Episode(task.name, support, tuple(rows[:num_query]), number=number)

    def _sequential(self, index: int) -> Episode:
        visit, position = divmod(index, len(self.tasks))
        task = self.tasks[position]
        num_support, num_query = self.support_size[0], self.query_size[0]
        if task.support_pool:
            support = self._next_rows(task.name, task.support_pool, visit, num_support, "pool")
            query = self._next_rows(task.name, task.examples, visit, num_query, "rows")
            return Episode(task.name, support, query, number=position)
        rows = self._next_rows(task.name, task.examples, visit, num_support + num_query, "rows")
        return Episode(task.name, rows[:num_support], rows[num_support:], number=position)

    def _next_rows(
        self, name: str, rows: tuple[Example, ...], visit: int, count: int, what: str
    ) -> tuple[Example, ...]:
        if count == 0:
            return ()
        pass_number, place = divmod(visit, len(rows) // count)
        permuted = _permuted(rows, "pass", what, self.seed, name, pass_number)
        return tuple(permuted[place * count : (place + 1) * count])

    def _check(self) -> None:
        if not self.tasks:
            raise AbmllError("no task to draw episodes from: give the suite at least one training task")
        if self.order not in ORDERS:
            raise unknown_name("episode order", str(self.order), ORDERS)
        names = [task.name for task in self.tasks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise AbmllError(f"two tasks share a name: {', '.join(map(repr, twice))}. Rename one of each.")
        if self.order == "sequential":
            if self.support_size[0] != self.support_size[1] or self.query_size[0] != self.query_size[1]:
                raise AbmllError('order="sequential" needs fixed sizes: give one number each, or use order="random"')
            if self.balanced or self.size_power:
                raise AbmllError('balanced and size_power go with order="random": drop them, or change the order')
        small = [
            message for task in self.tasks for message in _too_small(task, self.support_size[1], self.query_size[1])
        ]
        if small:
            raise AbmllError(
                f"{len(small)} task(s) too small for support_size={self.support_size[1]} and "
                f"query_size={self.query_size[1]}: {'; '.join(small)}. Lower the sizes, add rows, or leave it out."
            )


def evaluation_episode(
    task: Task,
    seed: int,
    support_size: int,
    num_query: int | None = None,
    *,
    max_support: int = 64,
    balanced: bool = False,
    order: RowOrder = "random",
) -> Episode:
    """The episode on which a method is evaluated; a pure function of its arguments.

    For one (task, seed) the rows are permuted once: the first `max_support` are set aside for support sets
    and the query is taken from the end. So support sets are nested over `support_size`, and the query is the
    same for every support size: differences between support sizes, and between methods, are paired.

    Args:
        num_query: at most this many query rows; None takes every row that is not set aside.
        max_support: the largest support size of the comparison; keep it the same within one.
        balanced: make every support set as label-balanced as the `max_support` rows allow.
        order: "random" as above; "file" takes the rows as they stand, as published runs do: support sets from the front
            of the pool, and the first rows behind them, or of the test file, as the query. The seed then decides
            nothing here.

    Raises AbmllError if `support_size` exceeds `max_support`, or the task has no row left to be evaluated on.
    """
    if not 0 <= support_size <= max_support:
        raise AbmllError(
            f"support_size {support_size} for task {task.name!r} is outside 0..{max_support}: "
            f"raise max_support (the largest support size you compare), or lower support_size"
        )
    if num_query is not None and num_query < 1:
        raise AbmllError(f"num_query {num_query} for task {task.name!r}: give at least 1, or None for all rows")
    small = _too_small(task, max_support, 1)
    if small:
        raise AbmllError(
            f"task too small to evaluate with max_support={max_support}: {'; '.join(small)}. Lower max_support "
            f"and the support sizes, or add rows."
        )
    if order == "file":
        rows, reserve = list(task.examples), list(task.support_pool)
    else:
        rows = _permuted(task.examples, "evaluation rows", seed, task.name)
        reserve = _permuted(task.support_pool, "evaluation pool", seed, task.name)
    pool, rest = (reserve[:max_support], rows) if reserve else (rows[:max_support], rows[max_support:])
    if num_query is not None:
        rest = rest[:num_query] if order == "file" else rest[-num_query:]
    query = rest
    chosen = (balanced_order(pool) if balanced else range(len(pool)))[:support_size]
    return Episode(task.name, tuple(pool[position] for position in chosen), tuple(query))


def _permuted(rows: Sequence[Example], *key: int | str) -> list[Example]:
    return [rows[position] for position in permutation(len(rows), *key)]


def _drawn(size: tuple[int, int], word: np.uint64) -> int:
    least, most = size
    return least + int(word) % (most - least + 1)


def _size(name: str, size: Size, least: int) -> tuple[int, int]:
    low, high = size if isinstance(size, tuple) else (size, size)
    if not least <= low <= high:
        raise AbmllError(f"{name}={size!r}: give a whole number of at least {least}, or a range (least, most)")
    return low, high


def _too_small(task: Task, num_support: int, num_query: int) -> list[str]:
    """What is lacking, in words; nothing if the task has rows enough."""
    if not task.support_pool:
        need = num_support + num_query
        return [f"{task.name!r} has {len(task)} rows, needs at least {need}"] if len(task) < need else []
    lacking = []
    if len(task.support_pool) < num_support:
        lacking.append(f"{task.name!r} has {len(task.support_pool)} support rows, needs at least {num_support}")
    if len(task) < num_query:
        lacking.append(f"{task.name!r} has {len(task)} query rows, needs at least {num_query}")
    return lacking
