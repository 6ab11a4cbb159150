"""What a method takes on this machine: pieces of its run, timed before the whole is started."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from abmll.config import RunConfig
from abmll.core.passes import Passes
from abmll.data.suite import Suite
from abmll.data.task import Task
from abmll.evaluation.predictions import Cell
from abmll.methods import build_method
from abmll.methods.parts.no_model import needs_model
from abmll.methods.parts.passes import adaptation_passes, training_passes
from abmll.pipeline.build import build_learner
from abmll.pipeline.train import meta_train

ROWS = 16
"""Rows that are predicted of a task: half a batch."""
TASKS = 2
"""Held-out tasks that are adapted to: the first, and one from the middle."""

Made = TypeVar("Made")


@dataclass(frozen=True)
class Timed:
    """Seconds of the pieces of a method's run.

    Attributes:
        loading: of the model and a fresh adapter, once a seed.
        training: of meta-training, for an example's forward pass (back costs two).
        adapting: the same, of adaptation.
        row: of predicting one.

    Optimisers, noise and log-densities are in what was timed.
    """

    loading: float
    training: float
    adapting: float
    row: float

    def seconds(self, config: RunConfig, name: str, num_tasks: int, num_query: float, scale: float = 1.0) -> float:
        """Of the whole method with one seed.

        Args:
            num_tasks: that are evaluated.
            num_query: examples that are predicted for each, on average.
            scale: how much longer the texts are than those that were timed.
        """
        method = build_method(name, **config.method.options_for(name))
        evaluation, episodes, steps = config.evaluation, config.episodes, config.training.num_steps
        training = 0.0
        if method.meta_learner is not None:
            passes = training_passes(method.meta_learner, episodes.support_size, episodes.query_size, steps)
            training = forwards(passes.times(config.training.episodes_per_step)) * self.training
        sizes = [size for size in evaluation.support_sizes if size]
        adapting = sum(forwards(adaptation_passes(method.adaptation, size)) for size in sizes) * self.adapting
        predicting = len(evaluation.support_sizes) * num_query * self.row
        return self.loading + scale * (training + num_tasks * (adapting + predicting))


def forwards(passes: Passes) -> float:
    """Passes in forward passes of one example."""
    return 3 * passes.trained + passes.predicted


def time_method(config: RunConfig, suite: Suite, name: str) -> Timed:
    """One outer step, and adaptation and predictions on two held-out tasks, each after one that is not timed.

    Writes nothing. Seconds are those of the clock, or of the processor where these are fewer: other work on the machine
    is not the method's.

    Raises:
        AbmllError: For whatever keeps the run itself from being done.
    """
    method = build_method(name, **config.method.options_for(name))
    if not needs_model(method):
        return Timed(0.0, 0.0, 0.0, 0.0)
    evaluation, episodes, seed = config.evaluation, config.episodes, config.evaluation.seeds[0]
    learner, loading = _seconds(lambda: build_learner(config, name, seed=seed))
    training = 0.0
    if method.meta_learner is not None:
        meta_train(learner, suite.train, config, seed, num_steps=1)
        _, step = _seconds(lambda: meta_train(learner, suite.train, config, seed, num_steps=1))
        passes = training_passes(method.meta_learner, episodes.support_size, episodes.query_size, 1)
        training = step / (forwards(passes) * config.training.episodes_per_step)
    tasks = getattr(suite, evaluation.split)
    size = max(evaluation.support_sizes)

    def judged(some: Sequence[Task], rows: int) -> list[Cell]:
        return list(
            learner.evaluate(
                tasks=some,
                name=name,
                seed=seed,
                support_sizes=(size,),
                num_samples=evaluation.num_samples,
                num_query=min(rows, evaluation.num_query or rows),
                order=evaluation.order,
            )
        )

    judged(tasks[:1], 2)
    chosen = [tasks[number * len(tasks) // TASKS] for number in range(min(TASKS, len(tasks)))]
    begun, spent = time.perf_counter(), time.process_time()
    cells = judged(chosen, ROWS)
    share = min(1.0, (time.process_time() - spent) / (time.perf_counter() - begun))
    adapted = share * sum(cell.seconds for cell in cells)
    predicted = share * sum(float(cell.extra["prediction_seconds"]) for cell in cells)
    each = forwards(adaptation_passes(method.adaptation, size)) * len(cells) if size else 0.0
    adapting = adapted / each if each else 0.0
    return Timed(loading, training, adapting, predicted / sum(len(cell.ids) for cell in cells))


def _seconds(work: Callable[[], Made]) -> tuple[Made, float]:
    begun, spent = time.perf_counter(), time.process_time()
    made = work()
    return made, min(time.perf_counter() - begun, time.process_time() - spent)
