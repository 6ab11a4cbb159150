"""Equal budgets of adaptation: a given number of gradient steps, or as many as fit into given seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from abmll.core.errors import AbmllError
from abmll.core.types import Adaptation, Example, Likelihood
from abmll.methods.parts.inner import InnerLoop
from abmll.methods.parts.natural import NaturalSteps
from abmll.methods.swag import Swag

MOST_STEPS = 1000
"""More steps than that are never taken, however many would fit."""
_STRIDE = 4


def inner_loops(part: Any) -> Iterator[InnerLoop | NaturalSteps]:
    """Every inner loop inside an adaptation, at any depth."""
    if isinstance(part, InnerLoop | NaturalSteps):
        yield part
    elif is_dataclass(part):
        for field in fields(part):
            yield from inner_loops(getattr(part, field.name))


def with_num_steps(adaptation: Adaptation, num_steps: int) -> Adaptation:
    """The adaptation with `num_steps` steps in every inner loop inside it; SWAG's two phases keep their shares.

    An ensemble's members take `num_steps` each. Adaptations without an inner loop are returned as they are.
    Raises: AbmllError if the adaptation cannot do with so few.
    """
    changes: dict[str, Any] = {}
    if not is_dataclass(adaptation):
        return adaptation
    for field in fields(adaptation):
        part = getattr(adaptation, field.name)
        if isinstance(part, InnerLoop | NaturalSteps):
            changes[field.name] = replace(part, num_steps=num_steps)
        elif is_dataclass(part) and any(inner_loops(part)):
            changes[field.name] = with_num_steps(part, num_steps)  # type: ignore[arg-type]
    if isinstance(adaptation, Swag):
        changes["start"] = adaptation.start * num_steps // max(1, adaptation.inner.num_steps)
    return replace(adaptation, **changes) if changes else adaptation  # type: ignore[type-var]


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
    least = _least_steps(adaptation)

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


def _least_steps(adaptation: Adaptation) -> int:
    for num_steps in range(1, MOST_STEPS):
        try:
            with_num_steps(adaptation, num_steps)
        except AbmllError:
            continue
        return num_steps
    raise AbmllError(f"{type(adaptation).__name__} takes no number of steps up to {MOST_STEPS}.")
