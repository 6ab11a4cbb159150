"""How many examples a method sends through the model, said by its parts: for plans, before anything is run.

A meta-learner has `passes(support, query, progress)`, those of one episode; an adaptation may have `passes(support)`,
those of adapting, and `query_passes(num_samples)`, those of predicting one row. What an adaptation does not say is what
its inner loops come to, and a pass a sample.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from abmll.core.passes import Passes
from abmll.methods.parts.budget import inner_loops
from abmll.methods.parts.inner import examples_of


def adaptation_passes(adaptation: Any, support: int) -> Passes:
    """Those of adapting to `support` rows."""
    own: Callable[[int], Passes] | None = getattr(adaptation, "passes", None)
    if own is not None:
        return own(support)
    return Passes(float(sum(examples_of(loop, support) for loop in inner_loops(adaptation))))


def query_passes(adaptation: Any, num_samples: int) -> Passes:
    """Those of predicting one row with `num_samples` samples (0: at the mean)."""
    own: Callable[[int], Passes] | None = getattr(adaptation, "query_passes", None)
    if own is not None:
        return own(num_samples)
    return Passes(0.0, float(max(1, num_samples)))


def episode_passes(meta_learner: Any, support: int, query: int, progress: float = 1.0) -> Passes:
    """Those of one episode of meta-training; one that does not say is taken for one pass over its rows."""
    own: Callable[[int, int, float], Passes] | None = getattr(meta_learner, "passes", None)
    return own(support, query, progress) if own is not None else Passes(float(support + query))


def training_passes(meta_learner: Any, support: int, query: int, num_steps: int) -> Passes:
    """Those of a whole meta-training, one episode a step."""
    total = Passes()
    for step in range(num_steps):
        total = total.plus(episode_passes(meta_learner, support, query, step / num_steps))
    return total
