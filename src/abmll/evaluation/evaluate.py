"""The second stage: adapt to held-out tasks, predict their queries, keep everything a metric may want."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence

from abmll.core.errors import AbmllError
from abmll.core.seeds import derive_seed, seeded
from abmll.core.types import Likelihood, Method
from abmll.data.episodes import evaluation_episode
from abmll.data.task import Task
from abmll.evaluation.predictions import Cell, CellKey
from abmll.methods.gradient import NoAdaptation


def evaluate(
    likelihood: Likelihood,
    method: Method,
    name: str,
    tasks: Sequence[Task],
    *,
    seed: int = 0,
    support_sizes: Sequence[int] = (16,),
    num_samples: int = 16,
    num_query: int | None = None,
    known_families: Collection[str] = (),
    done: Collection[CellKey] = (),
) -> Iterator[Cell]:
    """One cell for each task and support size: adapt META's method on the support, predict the query.

    Support sets are nested over support sizes and queries shared by all methods (`evaluation_episode`), and the
    noise of a cell is a function of (seed, task, support size) alone: cells may be made in any order, and two
    methods are compared on the same examples. Support size 0 predicts with θ as it is.

    name: the method's name in the predictions.
    known_families: families that meta-training saw; tasks of others are marked `held_out_family`.
    done: cells to leave out, because a predictions file holds them.
    """
    if not tasks:
        raise AbmllError("no tasks to evaluate: the suite's split is empty. Hold some out (held_out in [data]).")
    largest = max(support_sizes)
    for task in tasks:
        for size in support_sizes:
            if CellKey(name, seed, task.name, size) in done:
                continue
            episode = evaluation_episode(task, seed, size, num_query, max_support=largest)
            adaptation = method.adaptation if size else NoAdaptation()
            with seeded(derive_seed("evaluate", seed, task.name, size)):
                begun = time.perf_counter()
                posterior = adaptation.adapt(likelihood, episode.support)
                adapted = time.perf_counter()
                log_probs = posterior.predict(episode.query, num_samples)
            yield Cell(
                method=name,
                seed=seed,
                task=task.name,
                family=task.family,
                support_size=size,
                ids=[row.id or str(index) for index, row in enumerate(episode.query)],
                targets=[row.target for row in episode.query],
                log_probs=log_probs,
                seconds=adapted - begun,
                extra={
                    "held_out_family": bool(known_families) and task.family not in known_families,
                    "prediction_seconds": time.perf_counter() - adapted,
                },
            )
