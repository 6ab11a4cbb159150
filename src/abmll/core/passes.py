"""What a piece of work costs, counted in examples that go through the model."""

from __future__ import annotations

from typing import NamedTuple


class Passes(NamedTuple):
    """Examples that go through the model, forward and backward, or forward alone."""

    trained: float = 0.0
    predicted: float = 0.0

    def plus(self, other: Passes) -> Passes:
        return Passes(self.trained + other.trained, self.predicted + other.predicted)

    def times(self, factor: int | float) -> Passes:
        return Passes(self.trained * factor, self.predicted * factor)
