"""Equal budgets of adaptation: a given number of gradient steps, or as many as fit into given seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, cast

from abmll.core.types import Adaptation, Example, Likelihood

MOST_STEPS = 1000
"""More steps than that are never taken, however many would fit."""
_STRIDE = 4
Part = TypeVar("Part")


def inner_loops(part: Any) -> Iterator[Any]:
    """Every part of an adaptation, at any depth, that has a number of steps: `num_steps`, a field of its own."""
    if not is_dataclass(part):
        return
    if hasattr(part, "num_steps"):
        yield part
    for field in fields(part):
        yield from inner_loops(getattr(part, field.name))


def with_num_steps(part: Part, num_steps: int) -> Part:
    """An adaptation with `num_steps` steps in every inner loop inside it.

    A part that knows better says so by a method `with_num_steps` of its own, as SWAG does, whose two phases keep their
    shares. An ensemble's members take `num_steps` each. What takes no steps is returned as it is.

    Raises:
        AbmllError: If a part cannot do with so few.
    """
    own: Callable[[int], Part] | None = getattr(part, "with_num_steps", None)
    if own is not None:
        return own(num_steps)
    if not is_dataclass(part):
        return part
    changes: dict[str, Any] = {"num_steps": num_steps} if hasattr(part, "num_steps") else {}
    for field in fields(part):
        inside = getattr(part, field.name)
        if any(inner_loops(inside)):
            changes[field.name] = with_num_steps(inside, num_steps)
    return cast(Part, replace(part, **changes)) if changes else part  # type: ignore[type-var]


def least_steps(part: Any) -> int:
    """The least number of steps that every part of an adaptation can do with: 1, or what its `least_steps` says."""
    own: int | None = getattr(part, "least_steps", None)
    if own is not None:
        return own
    inside = (least_steps(getattr(part, field.name)) for field in fields(part)) if is_dataclass(part) else ()
    return max(1, max(inside, default=1))


def steps_within(
    adaptation: Adaptation,
    likelihood: Likelihood,
    support: Sequence[Example],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> int | None:
    """How many gradient steps let `adapt` take about `seconds`; None for an adaptation that takes no steps.

    Seconds are a + b·steps: b is a step, a what comes once, such as Laplace's curvature or the search of TFB. Both
    are measured by two short adaptations, after one that warms up. The answer is between the least number that the
    adaptation can do with, even if that takes longer, and `MOST_STEPS`.
    """
    if not any(loop.num_steps for loop in inner_loops(adaptation)):
        return None
    least = least_steps(adaptation)

    def measure(num_steps: int) -> float:
        begun = clock()
        with_num_steps(adaptation, num_steps).adapt(likelihood, support)
        return clock() - begun

    measure(least)
    first, second = measure(least), measure(least + _STRIDE)
    # A difference can drown in noise; the mean over all steps cannot.
    step = (second - first) / _STRIDE if second > first else second / (least + _STRIDE)
    fitting = least + int(max(0.0, seconds - first) / max(step, 1e-9))
    return min(max(least, fitting), MOST_STEPS)
