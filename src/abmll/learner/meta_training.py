"""What a person asks of meta-training: its options, checked once, and what they make of tasks and of a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from abmll.config.schema import EpisodesConfig, TrainingConfig
from abmll.core.errors import AbmllError
from abmll.core.types import Method
from abmll.data.episodes import EpisodeSampler, Order, Size
from abmll.data.task import Task
from abmll.rules import Schedule, perhaps, plain, require, rules_of
from abmll.training.settings import Training


@dataclass(frozen=True)
class MetaTraining:
    """Checked options of a meta-training.

    Attributes:
        training: steps, episodes a step, seed, checkpoints.
        support_size: labelled examples to adapt on in an episode, or a range to draw from.
        query_size: further examples to be evaluated on, likewise.
        order: of the tasks.
        balanced: whether support sets hold equally many examples of every class.
        outer: what replaces the outer optimiser's own options.
    """

    training: Training
    support_size: Size
    query_size: Size
    order: Order
    balanced: bool
    outer: Mapping[str, Any]

    def episodes(self, tasks: Sequence[Task]) -> EpisodeSampler:
        """The episodes that are trained on. Raises: AbmllError if a task has too few rows."""
        sizes = plain(self.support_size), plain(self.query_size)
        return EpisodeSampler(tasks, self.training.seed, *sizes, order=self.order, balanced=self.balanced)

    def of(self, method: Method) -> Method:
        """The method with these options of its outer optimiser, for this training alone."""
        return method._replace(outer=replace(method.outer, **self.outer))


def meta_training(
    training: Training | None,
    fields: Mapping[str, Any],
    *,
    support_size: Size,
    query_size: Size,
    order: Order,
    balanced: bool,
    **outer: Any,
) -> MetaTraining:
    """The options of `Learner.meta_train`, checked.

    Args:
        training: the run's settings, or None to make them of `fields`.
        fields: single fields of `Training`.
        support_size: as in `Learner.meta_train`.
        query_size: likewise.
        order: likewise.
        balanced: likewise.
        **outer: options of the outer optimiser; None takes the method's own.

    Raises:
        AbmllError: For unknown options, values of a wrong type or out of range, and fields given twice.
    """
    if training is not None and fields:
        raise AbmllError(f"give {', '.join(fields)} in training=Training(...), or without it: not both.")
    unknown = [name for name in fields if name not in rules_of(Training)]
    if unknown:
        known = list(dict.fromkeys([*rules_of(Training), *rules_of(EpisodesConfig), *outer]))
        hint = perhaps(unknown[0], known) if len(unknown) == 1 else ""
        raise AbmllError(f"meta_train has no option {', '.join(unknown)}.{hint} Options: {', '.join(known)}.")
    sizes = {"support_size": support_size, "query_size": query_size}
    whole = {name: size for name, size in sizes.items() if not isinstance(size, tuple)}
    rules = rules_of(EpisodesConfig) | {**rules_of(TrainingConfig), "schedule": Schedule | None}
    require(rules, {"order": order, "balanced": balanced, **outer, **whole})
    replaced = {name: plain(value) for name, value in outer.items() if value is not None}
    return MetaTraining(training or Training(**fields), support_size, query_size, order, balanced, replaced)
