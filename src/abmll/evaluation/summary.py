"""The summary of cells over tasks × seeds: means, paired differences with one rule for what is clear, ranks, levels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from abmll.core.errors import AbmllError, unknown_name
from abmll.evaluation.levels import Levels, levels_of, mean_levels
from abmll.evaluation.metrics import HEADLINE, METRICS, cell_metrics
from abmll.evaluation.predictions import Cell, CellKey
from abmll.evaluation.ranking import mean_ranks, shared_task_means
from abmll.evaluation.references import REFERENCES, UNIFORM, baseline_of, is_rival
from abmll.evaluation.statistics import Interval, bootstrap_interval, holm, seed_means, wilcoxon_signed_rank

ALPHA = 0.05
"""The one level of significance: at most this, and a difference is called clear."""
MIN_TASKS = 6
"""With fewer tasks, Wilcoxon's exact signed-rank test cannot reach `ALPHA`: nothing is clear."""


class Difference(NamedTuple):
    """Method minus another one on the (task, seed) pairs that both have, on the same query examples.

    Attributes:
        p_value: Wilcoxon's signed-rank test on per-task means, Holm-corrected over the methods of one table.
    """

    interval: Interval
    p_value: float
    num_pairs: int

    @property
    def clear(self) -> bool:
        """The one rule by which anything is bold, starred, dark or called told apart: p <= `ALPHA`, corrected."""
        return self.p_value <= ALPHA


@dataclass(frozen=True)
class Standing:
    """How one method stands at one support size. Mappings are by metric name; `ranks` are the mean ranks of `ranking`.

    Attributes:
        against_uniform: the method's NLL minus that of the uniform distribution on the same query examples.
    """

    method: str
    support_size: int
    estimates: Mapping[str, Interval]
    differences: Mapping[str, Difference]
    ranks: Mapping[str, float]
    against_uniform: Difference
    num_tasks: int
    num_seeds: int
    num_cells: int

    @property
    def beats_uniform(self) -> bool:
        """A lower NLL than uniform, and clearly so where there are tasks enough to tell."""
        return self.against_uniform.interval.mean < 0 and (self.against_uniform.clear or self.num_tasks < MIN_TASKS)


@dataclass(frozen=True, repr=False)
class Summary:
    """Means over tasks × seeds with 95 % intervals, paired differences to a baseline, ranks, and what to
    beware of.

    Attributes:
        cells: every one of `METRICS`, also those not summarised, for each cell.
        standings: sorted by support size, then in the methods' order of appearance, the baseline first and the other
            `REFERENCES` last.
        winners: (support size, metric) -> the best method, where its difference to every other is clear, Holm-corrected
            over these.
        levels: (support size, task, seed) -> chance and majority of the query examples there.
        notes: what a reader must know before comparing (missing cells, unequal query sets, one seed, ...).
    """

    baseline: str
    metrics: tuple[str, ...]
    methods: tuple[str, ...]
    support_sizes: tuple[int, ...]
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    cells: Mapping[CellKey, Mapping[str, float]]
    standings: tuple[Standing, ...]
    winners: Mapping[tuple[int, str], str]
    levels: Mapping[tuple[int, str, int], Levels]
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        methods, sizes = ", ".join(self.methods), ", ".join(map(str, self.support_sizes))
        scope = f"{len(self.tasks)} tasks, seeds {', '.join(map(str, self.seeds))}, support sizes {sizes}"
        return f"Summary({methods}; against {self.baseline}; {scope})"

    def mean_levels(self, support_size: int, task: str | None = None) -> Levels:
        """Chance and majority averaged over the (task, seed) cells of a support size, or of one task there."""
        return mean_levels(
            found for (size, name, _), found in self.levels.items() if size == support_size and task in (None, name)
        )

    def standing(self, method: str, support_size: int) -> Standing | None:
        """How a method stands at a support size, None if it was not evaluated there."""
        return next((s for s in self.standings if (s.method, s.support_size) == (method, support_size)), None)

    def only(self, metrics: Sequence[str]) -> Summary:
        """The same summary of some of its metrics: what `summarise` gives for them. Raises KeyError for others."""
        standings = tuple(
            replace(
                one,
                estimates={metric: one.estimates[metric] for metric in metrics},
                differences={m: one.differences[m] for m in metrics if m in one.differences},
                ranks={m: one.ranks[m] for m in metrics if m in one.ranks},
            )
            for one in self.standings
        )
        winners = {key: method for key, method in self.winners.items() if key[1] in metrics}
        return replace(self, metrics=tuple(metrics), standings=standings, winners=winners)

    def values(self, metric: str, support_size: int, methods: Sequence[str]) -> np.ndarray:
        """(methods, tasks, seeds): a metric of every cell, NaN where there is none."""
        array = np.full((len(methods), len(self.tasks), len(self.seeds)), np.nan)
        places = [{name: i for i, name in enumerate(names)} for names in (methods, self.tasks, self.seeds)]
        for key, numbers in self.cells.items():
            if key.support_size == support_size and key.method in places[0]:
                array[places[0][key.method], places[1][key.task], places[2][key.seed]] = numbers[metric]
        return array


def summarise(
    cells: Iterable[Cell],
    baseline: str | None = None,
    metrics: Sequence[str] = HEADLINE,
    num_draws: int = 2000,
    seed: int = 0,
) -> Summary:
    """Summary of cells over tasks × seeds, every (task, seed) cell weighing the same. Deterministic in
    `seed`.

    A method with missing cells keeps its own mean, is named in `notes`, and is compared only on the cells it
    shares.

    Args:
        baseline: the method that differences are taken to; None: `baseline_of` the methods.

    Raises:
        AbmllError: If there is no cell or a metric is unknown.
    """
    cells = list(cells)
    for metric in metrics:
        if metric not in METRICS:
            raise unknown_name("metric", metric, METRICS)
    if not cells:
        raise AbmllError("no cells to summarise: the predictions are empty.")
    baseline = baseline or baseline_of(dict.fromkeys(cell.method for cell in cells))
    return _Summariser(cells, baseline, tuple(metrics), num_draws, seed).summary()


class _Summariser:
    """Holds the values as arrays (tasks, seeds) per (support size, method, metric)."""

    def __init__(self, cells: list[Cell], baseline: str, metrics: tuple[str, ...], num_draws: int, seed: int) -> None:
        self.baseline, self.metrics, self.num_draws, self.seed = baseline, metrics, num_draws, seed
        seen = dict.fromkeys(c.method for c in cells)
        last = {name: place for place, name in enumerate(REFERENCES, start=1)}
        self.methods = tuple(sorted(seen, key=lambda m: -1 if m == baseline else last.get(m, 0)))
        self.support_sizes = tuple(sorted({c.support_size for c in cells}))
        self.tasks = tuple(dict.fromkeys(c.task for c in cells))
        self.seeds = tuple(sorted({c.seed for c in cells}))
        self.cells = {c.key: c for c in cells}
        self.numbers = {c.key: cell_metrics(c) for c in cells}
        self.own_levels = {c.key: levels_of(c) for c in cells}
        self.levels = {(c.support_size, c.task, c.seed): self.own_levels[c.key] for c in cells}
        shape = len(self.tasks), len(self.seeds)
        self.values = {
            (size, method): np.full((len(metrics), *shape), np.nan)
            for size in self.support_sizes
            for method in self.methods
        }
        self.present = {key: np.zeros(shape, dtype=bool) for key in self.values}
        for c in cells:
            at = self.tasks.index(c.task), self.seeds.index(c.seed)
            numbers = self.numbers[c.key]
            self.values[c.support_size, c.method][(slice(None), *at)] = [numbers[m] for m in metrics]
            self.present[c.support_size, c.method][at] = True
        self._shared: dict[tuple[Any, ...], np.ndarray] = {}
        self.notes: list[str] = []
        # What holds for several support sizes is said once: (before, after) -> sizes, joined in `summary`.
        self.notes_by_size: dict[tuple[str, str], list[int]] = {}

    def summary(self) -> Summary:
        self._note_scope()
        standings, winners = [], {}
        for size in self.support_sizes:
            methods = [m for m in self.methods if self.present[size, m].any()]
            self._note_missing(size, methods)
            differences = self._differences(size, methods)
            ranks = self._ranks(size, methods)
            against_uniform = self._against_uniform(size, methods)
            for method in methods:
                present = self.present[size, method]
                estimates = {m: self._interval(self.values[size, method][i]) for i, m in enumerate(self.metrics)}
                counts = int(present.any(1).sum()), int(present.any(0).sum()), int(present.sum())
                standings.append(
                    Standing(
                        method, size, estimates, differences[method], ranks[method], against_uniform[method], *counts
                    )
                )
            for metric in self.metrics:
                best = self._winner(size, methods, metric)
                if best is not None:
                    winners[size, metric] = best
        return Summary(
            self.baseline,
            self.metrics,
            self.methods,
            self.support_sizes,
            self.tasks,
            self.seeds,
            self.numbers,
            tuple(standings),
            winners,
            self.levels,
            self._all_notes(),
        )

    def _interval(self, values: np.ndarray) -> Interval:
        return bootstrap_interval(values, self.num_draws, self.seed)

    def _comparable(self, size: int, one: str, other: str) -> np.ndarray:
        """(tasks, seeds): where both methods have a cell, on the same query examples."""
        key = size, *sorted((one, other))
        if key not in self._shared:
            self._shared[key] = self._find_comparable(size, one, other)
        return self._shared[key]

    def _find_comparable(self, size: int, one: str, other: str) -> np.ndarray:
        both = self.present[size, one] & self.present[size, other]
        for t, s in zip(*both.nonzero(), strict=True):
            rest = self.seeds[s], self.tasks[t], size
            a, b = self.cells[(one, *rest)], self.cells[(other, *rest)]  # type: ignore[index]
            both[t, s] = a.ids == b.ids and bool((a.targets == b.targets).all())
        return both

    def _paired(self, size: int, one: str, other: str, metric: str) -> np.ndarray:
        """(tasks, seeds) differences one - other, NaN where they cannot be compared."""
        i = self.metrics.index(metric)
        difference = self.values[size, one][i] - self.values[size, other][i]
        return np.where(self._comparable(size, one, other), difference, np.nan)

    def _differences(self, size: int, methods: list[str]) -> dict[str, dict[str, Difference]]:
        result: dict[str, dict[str, Difference]] = {method: {} for method in methods}
        if self.baseline not in methods:
            return result
        others = [m for m in methods if m != self.baseline]
        for metric in self.metrics:
            pairs = {method: self._paired(size, method, self.baseline, metric) for method in others}
            p_values = holm([wilcoxon_signed_rank(_task_means(pairs[method])) for method in others])
            for method, p_value in zip(others, p_values, strict=True):
                num_pairs = int((~np.isnan(pairs[method])).sum())
                result[method][metric] = Difference(self._interval(pairs[method]), p_value, num_pairs)
        return result

    def _ranks(self, size: int, methods: list[str]) -> dict[str, dict[str, float]]:
        """Mean ranks as `ranking` defines them."""
        result: dict[str, dict[str, float]] = {method: {} for method in methods}
        for i, metric in enumerate(self.metrics):
            better = METRICS[metric].better
            if better is None:
                continue
            shared = shared_task_means(np.stack([self.values[size, method][i] for method in methods]))
            for method, rank in zip(methods, mean_ranks(shared, better == "higher"), strict=True):
                result[method][metric] = float(rank)
        return result

    def _against_uniform(self, size: int, methods: list[str]) -> dict[str, Difference]:
        """The cells themselves say what uniform would have: it need not be among the methods."""
        shape = len(self.tasks), len(self.seeds)
        pairs = {method: np.full(shape, np.nan) for method in methods}
        for key, numbers in self.numbers.items():
            if key.support_size == size:
                at = self.tasks.index(key.task), self.seeds.index(key.seed)
                pairs[key.method][at] = numbers["nll"] - self.own_levels[key].uniform_nll
        tested = [method for method in methods if method != UNIFORM]
        p_values = dict(zip(tested, holm([wilcoxon_signed_rank(_task_means(pairs[m])) for m in tested]), strict=True))
        return {
            method: Difference(self._interval(values), p_values.get(method, 1.0), int((~np.isnan(values)).sum()))
            for method, values in pairs.items()
        }

    def _winner(self, size: int, methods: list[str], metric: str) -> str | None:
        """The method whose difference to each other one is clear by the same test, Holm-corrected over the others."""
        better, methods = METRICS[metric].better, [method for method in methods if is_rival(method, metric)]
        if better is None or len(methods) < 2:
            return None
        sign = 1 if better == "higher" else -1
        for method in methods:
            others = [other for other in methods if other != method]
            gains = [_task_means(sign * self._paired(size, method, other, metric)) for other in others]
            if all(gain.size and gain.mean() > 0 for gain in gains):
                return method if all(p <= ALPHA for p in holm(list(map(wilcoxon_signed_rank, gains)))) else None
        return None

    def _note_scope(self) -> None:
        if self.baseline not in self.methods:
            self.notes.append(f"There are no predictions of {self.baseline}: no paired differences are given.")
        if len(self.seeds) == len(self.tasks) == 1:
            self.notes.append("There is one task and one seed: there are no intervals.")
        elif len(self.seeds) == 1:
            self.notes.append("There is one seed: the intervals show variation over tasks only.")
        elif len(self.tasks) == 1:
            self.notes.append("There is one task: the intervals show variation over seeds only.")
        if 1 < len(self.tasks) < MIN_TASKS and len(self.methods) > 1:
            self.notes.append(
                f"There are {len(self.tasks)} tasks: too few to tell methods apart, so nothing is marked as best (the "
                f"test needs {MIN_TASKS})."
            )

    def _note_missing(self, size: int, methods: list[str]) -> None:
        for method in self.methods:
            if method not in methods:
                self._note(size, f"{method} was not evaluated with", ".")
        wanted = np.logical_or.reduce([self.present[size, m] for m in methods])
        for method in methods:
            missing = int((wanted & ~self.present[size, method]).sum())
            if missing:
                self._note(
                    size,
                    f"{method} lacks {missing} of {wanted.sum()} (task, seed) cells with",
                    ": its mean is over other cells than those of other methods. "
                    "Differences and ranks use only cells that are shared.",
                )
            if self.baseline in methods and method != self.baseline:
                both = self.present[size, method] & self.present[size, self.baseline]
                unequal = int((both & ~self._comparable(size, method, self.baseline)).sum())
                if unequal:
                    self._note(
                        size,
                        f"{method} and {self.baseline} were evaluated on different query examples in {unequal} "
                        "(task, seed) cells with",
                        "; these are left out of the differences.",
                    )

    def _note(self, size: int, before: str, after: str) -> None:
        self.notes_by_size.setdefault((before, after), []).append(size)

    def _all_notes(self) -> tuple[str, ...]:
        by_size = (
            f"{before} {_enumerated(sizes)} support examples{after}"
            for (before, after), sizes in self.notes_by_size.items()
        )
        return (*self.notes, *by_size)


def _enumerated(sizes: list[int]) -> str:
    """4, 16 and 64"""
    *most, last = map(str, sizes)
    return f"{', '.join(most)} and {last}" if most else last


def _task_means(values: np.ndarray) -> np.ndarray:
    """Mean over seeds of the tasks that have a value."""
    means = seed_means(values)
    known: np.ndarray = means[~np.isnan(means)]
    return known
