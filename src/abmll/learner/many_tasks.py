"""Several tasks adapted to together: those with equally many rows share a pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from abmll.core.finite import require_finite_posterior
from abmll.core.types import Posterior
from abmll.language.letters import some_of_each
from abmll.learner.attachment import working
from abmll.learner.checked import require_rows
from abmll.learner.given import TaskRows
from abmll.learner.posterior import TaskPosterior
from abmll.methods.parts.side_by_side import adapt_side_by_side

if TYPE_CHECKING:
    from abmll.learner.learner import Learner


def adapt_together(learner: Learner, tasks: Sequence[TaskRows], tasks_at_once: int) -> list[TaskPosterior]:
    """What `Learner.adapt_many` does with tasks that are read: each one's posterior, in their order."""
    of_size: dict[int, list[int]] = {}
    for place, task in enumerate(tasks):
        of_size.setdefault(len(task.rows), []).append(place)
    found: dict[int, Posterior] = {}
    with working(learner):
        learner.likelihood.settle(some_of_each([task.rows for task in tasks]))
        for task in tasks:
            require_rows(learner, task)
        for places in of_size.values():
            for start in range(0, len(places), tasks_at_once):
                chosen = places[start : start + tasks_at_once]
                rows = [list(tasks[place].rows) for place in chosen]
                posteriors = adapt_side_by_side(learner.method.adaptation, learner.likelihood, rows)
                found.update(zip(chosen, posteriors, strict=True))
    for place, task in enumerate(tasks):
        require_finite_posterior(found[place], f"task {task.name!r} by {learner.name}")
    return [TaskPosterior(learner, found[place], task) for place, task in enumerate(tasks)]
