"""What an evaluation found: its cells one by one as they are made, and their summary."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from abmll.evaluation.predictions import Cell, append_cell
from abmll.evaluation.summary import Summary, summarise


class Evaluation:
    """The cells of an evaluation: all predictions of a method on a task from one support size.

    They are made when they are first asked for, one after the other, and kept: iterate to see each as soon as it is
    there, or ask for `cells`, `summary()` or `table()`, which finish the work. Two evaluations add up to the
    comparison of their methods.

    Args:
        cells: the cells, perhaps still to be made.
    """

    def __init__(self, cells: Iterable[Cell]) -> None:
        self._coming = iter(cells)
        self._made: list[Cell] = []
        self._finished = False

    def __iter__(self) -> Iterator[Cell]:
        place = 0
        while place < len(self._made) or self._make_next():
            yield self._made[place]
            place += 1

    def _make_next(self) -> bool:
        for cell in self._coming:
            self._made.append(cell)
            return True
        self._finished = True
        return False

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Every cell."""
        return tuple(self)

    def __add__(self, other: Evaluation) -> Evaluation:
        return Evaluation((*self, *other))

    def summary(self, baseline: str | None = None) -> Summary:
        """Means over tasks and seeds with their intervals, and paired differences to a method.

        Args:
            baseline: the method that others are compared with; by default "abmll" or a form of it, if there is one,
                else the first.

        Raises:
            AbmllError: If there is no cell.
        """
        cells = self.cells
        return summarise(cells, baseline)

    def table(self, baseline: str | None = None, *, markdown: bool = False) -> str:
        """The summary as a table for a terminal, or in Markdown."""
        from abmll.reports.tables import markdown_table, text_table

        summary = self.summary(baseline)
        return markdown_table(summary) if markdown else text_table(summary, color=False)

    def save(self, path: str | Path) -> Path:
        """Appends the cells to a predictions file, of which `abmll report` makes a report. Returns its path."""
        for cell in self:
            append_cell(Path(path), cell)
        return Path(path)

    def __repr__(self) -> str:
        tasks = len({cell.task for cell in self._made})
        methods = ", ".join(dict.fromkeys(cell.method for cell in self._made)) or "none yet"
        rest = "" if self._finished else ", more to be made"
        return f"Evaluation({len(self._made)} cells of {tasks} tasks{rest}; methods: {methods})"
