"""The second stage: adapt to held-out tasks, predict their queries, keep everything a metric may want."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch

from abmll.core.errors import AbmllError
from abmll.core.finite import require_finite_posterior, require_finite_predictions
from abmll.core.memory import peak_memory_bytes, reset_peak_memory
from abmll.core.seeds import derive_seed, seeded
from abmll.core.types import META, Adaptation, Example, Likelihood, Method
from abmll.data.episodes import RowOrder, evaluation_episode
from abmll.data.task import Task
from abmll.evaluation.cost import now, stored_bytes
from abmll.evaluation.predictions import Cell, CellKey
from abmll.methods.parts.budget import steps_within, with_num_steps
from abmll.methods.parts.no_model import needs_model
from abmll.methods.parts.zero_shot import zero_shot_of
from abmll.methods.uniform import Uniform


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
    adaptation_seconds: Sequence[float] | None = None,
    order: RowOrder = "random",
) -> Iterator[Cell]:
    """One cell for each task and support size: adapt META's method on the support, predict the query.

    Support sets are nested over support sizes and queries shared by all methods (`evaluation_episode`), and the
    noise of a cell is a function of (seed, task, support size) alone: cells may be made in any order, and two
    methods are compared on the same examples. Support size 0 predicts with θ as it is (`zero_shot_of`); methods
    that ask no model (`needs_model`) then have nothing to go by, and predict uniformly.

    Args:
        name: the method's name in the predictions.
        known_families: families that meta-training saw; tasks of others are marked `held_out_family`.
        done: cells to leave out, because a predictions file holds them.
        adaptation_seconds: adapt with as many gradient steps as fit into these seconds (one number for each support
            size or one for all); their number, measured for each cell, is in its `extra["num_steps"]`.
        order: of the rows of a task; see `evaluation_episode`.

    Every cell's `extra` has `prediction_seconds`, `peak_memory_bytes` (of adaptation and prediction), `stored_bytes`
    (of the posterior) and, where all rows have the same, the `choices` that the columns stand for.
    """
    limits = _limits(adaptation_seconds, support_sizes)
    device = next((tensor.device for tensor in likelihood.parameters(META).values()), torch.device("cpu"))
    zero_shot = zero_shot_of(method.adaptation) if needs_model(method) else Uniform()
    if not tasks:
        raise AbmllError("no tasks to evaluate: the suite's split is empty. Hold some out (held_out in [data]).")
    largest = max(support_sizes)
    # One size after the other: cells that ranks make at the same time then cost about the same.
    for size in support_sizes:
        for task in tasks:
            if CellKey(name, seed, task.name, size) in done:
                continue
            episode = evaluation_episode(task, seed, size, num_query, max_support=largest, order=order)
            adaptation: Adaptation = method.adaptation if size else zero_shot
            cell_seed = derive_seed("evaluate", seed, task.name, size)
            extra: dict[str, int] = {}
            if (limit := limits[size]) is not None:
                with seeded(cell_seed):
                    adaptation, extra = _fitted(adaptation, likelihood, episode.support, limit)
            reset_peak_memory(device)
            with seeded(cell_seed):
                begun = now(device)
                posterior = adaptation.adapt(likelihood, episode.support)
                adapted = now(device)
                log_probs = posterior.predict(episode.query, num_samples)
                predicted = now(device)
            ids = [row.id or str(index) for index, row in enumerate(episode.query)]
            require_finite_posterior(posterior, f"task {task.name!r} by {name} from {size} examples")
            require_finite_predictions(log_probs, ids, f"task {task.name!r} by {name} from {size} examples")
            yield Cell(
                method=name,
                seed=seed,
                task=task.name,
                family=task.family,
                support_size=size,
                ids=ids,
                targets=torch.tensor([row.known_target for row in episode.query]),
                log_probs=log_probs,
                seconds=adapted - begun,
                extra={
                    "held_out_family": bool(known_families) and task.family not in known_families,
                    "prediction_seconds": predicted - adapted,
                    "peak_memory_bytes": peak_memory_bytes(device),
                    "stored_bytes": stored_bytes(posterior.state_dict()),
                    **_classes(episode.query),
                    **extra,
                },
            )


def _classes(query: Sequence[Example]) -> dict[str, list[str]]:
    """The texts of the choices for a cell's `extra`, if all rows have the same."""
    choices = {row.choices for row in query}
    return {"choices": list(choices.pop())} if len(choices) == 1 else {}


def _limits(seconds: Sequence[float] | None, support_sizes: Sequence[int]) -> dict[int, float | None]:
    """Support size -> seconds of adaptation."""
    if seconds is None:
        return dict.fromkeys(support_sizes)
    if len(seconds) not in (1, len(support_sizes)):
        raise AbmllError(
            f"adaptation_seconds has {len(seconds)} numbers for {len(support_sizes)} support sizes. Give one for each, "
            "or one for all."
        )
    return dict(zip(support_sizes, list(seconds) * (len(support_sizes) if len(seconds) == 1 else 1), strict=True))


def _fitted(
    adaptation: Adaptation, likelihood: Likelihood, support: Sequence[Example], seconds: float
) -> tuple[Adaptation, dict[str, int]]:
    """The adaptation with as many steps as fit, and their number for the cell's `extra`."""
    num_steps = steps_within(adaptation, likelihood, support, seconds)
    if num_steps is None:
        return adaptation, {}
    return with_num_steps(adaptation, num_steps), {"num_steps": num_steps}
