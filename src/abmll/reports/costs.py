"""What methods cost, read from their cells."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from abmll.evaluation.predictions import Cell
from abmll.reports.notation import amount

DASH = "–"
"""What is not known."""
COLUMNS = ("Adapt, s", "Predict, s", "Steps", "Peak MiB", "Stored KiB")
LONG_COLUMNS = ("Adapting, s", "Predicting, s", "Fitted steps", "Peak memory, MiB", "Stored per task, KiB")
"""The same columns where there is room."""


@dataclass(frozen=True)
class Cost:
    """Of a method at one support size; None where the cells do not say.

    Attributes:
        seconds: medians over cells.
        prediction_seconds: likewise.
        num_steps: least and most of a fitted number of gradient steps.
        peak_memory_bytes: the most of any cell.
        stored_bytes: the median posterior's.
    """

    seconds: float
    prediction_seconds: float | None
    num_steps: tuple[int, int] | None
    peak_memory_bytes: int | None
    stored_bytes: float | None

    @property
    def texts(self) -> tuple[str, str, str, str, str]:
        """For `COLUMNS`; a dash for what is not known."""
        steps = DASH if self.num_steps is None else "–".join(map(str, dict.fromkeys(self.num_steps)))
        return (
            _scaled(self.seconds, 1),
            _scaled(self.prediction_seconds, 1),
            steps,
            _scaled(self.peak_memory_bytes, 2**20),
            _scaled(self.stored_bytes, 2**10),
        )


def cost_of(cells: Sequence[Cell]) -> Cost:
    """The cost of one method at one support size, from its cells."""

    def known(key: str) -> list[Any]:
        return [cell.extra[key] for cell in cells if cell.extra.get(key) is not None]

    steps, memory = known("num_steps"), known("peak_memory_bytes")
    predicting, stored = known("prediction_seconds"), known("stored_bytes")
    return Cost(
        statistics.median(cell.seconds for cell in cells),
        statistics.median(predicting) if predicting else None,
        (min(steps), max(steps)) if steps else None,
        max(memory) if memory else None,
        statistics.median(stored) if stored else None,
    )


def _scaled(value: float | None, unit: int) -> str:
    """`value` in units of `unit`; a dash if it is not known."""
    return DASH if value is None else amount(value / unit)


def without_dashes(rows: list[list[str]]) -> list[list[str]]:
    """Rows, the first a header, without the columns in which no row has anything to say."""
    kept = [i for i in range(len(rows[0])) if i == 0 or any(row[i] != DASH for row in rows[1:])]
    return [[row[i] for i in kept] for row in rows]
