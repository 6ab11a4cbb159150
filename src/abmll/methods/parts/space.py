"""Where `abmll tune` looks: the options of a method that are searched, and the values they may take.

Every range holds the option's default. The number of gradient steps and the batch size are in no space: a comparison
fixes them for all methods alike. Options of the outer loop and of the adaptation are drawn together, so that one
trial is one whole experiment.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ParamSpec

from abmll.core.types import Method

P = ParamSpec("P")


@dataclass(frozen=True)
class LogUniform:
    """Numbers between `low` and `high`, every factor as likely as any other; drawn with three digits."""

    low: float
    high: float

    def at(self, place: float) -> float:
        """The value at `place` in [0, 1)."""
        return float(f"{math.exp(math.log(self.low) + place * math.log(self.high / self.low)):.3g}")

    def __contains__(self, value: object) -> bool:
        return isinstance(value, float | int) and self.low <= value <= self.high


@dataclass(frozen=True)
class Choice:
    """One of some values, each as likely."""

    values: tuple[Any, ...]

    def at(self, place: float) -> Any:
        """The value at `place` in [0, 1)."""
        return self.values[int(place * len(self.values))]

    def __contains__(self, value: object) -> bool:
        return value in self.values


@dataclass(frozen=True)
class Given:
    """Values that depend on another option of the same space; where that has no entry, this one stays at its default.

    The default is None, which the method takes for the default of what `option` chose.
    """

    option: str
    spaces: Mapping[Any, LogUniform]

    def __contains__(self, value: object) -> bool:
        return value is None or any(value in space for space in self.spaces.values())


Space = Mapping[str, LogUniform | Choice | Given]

ADAM_RATE = LogUniform(1e-4, 3e-2)
"""Of AdamW on a LoRA."""
SGD_RATE = LogUniform(1e-2, 1.0)
"""Of plain gradient steps."""
OUTER_RATE = LogUniform(1e-3, 1e-2)
"""Of AdamW in the outer loop."""
REPTILE_RATE = LogUniform(0.1, 1.0)
"""ε of Reptile."""


def searched(**space: LogUniform | Choice | Given) -> Callable[[Callable[P, Method]], Callable[P, Method]]:
    """Says beside a method's factory which of its options are searched, and where; without it none is."""

    def with_space(factory: Callable[P, Method]) -> Callable[P, Method]:
        vars(factory)["space"] = space
        return factory

    return with_space
