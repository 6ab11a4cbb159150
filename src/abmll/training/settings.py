"""What a training run is asked to do, and the fingerprint by which a resumed run proves that it is the same one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from abmll.core.errors import AbmllError
from abmll.core.types import META, TASK, Episode, Likelihood, Method
from abmll.rules import Count, Positive, require_fields


@dataclass(frozen=True)
class Training:
    """Settings of the outer loop.

    Attributes:
        num_steps: outer steps in all, counted from the beginning, not from a resumed checkpoint.
        episodes_per_step: episodes whose mean gradient makes one outer step, over all ranks together.
        seed: of the noise. Episode i draws its noise from (seed, i) alone.
        checkpoint_every: steps between checkpoints; there is always one at the end.
        keep_checkpoints: how many of the newest to keep; at least 2 leave one to fall back to if the newest is damaged.
        log_every: steps between lines of the training log (the first and the last step always have one).
        validate_every: steps between calls of `validate`, if `train` is given one.
        tensorboard: mirror the log for TensorBoard (needs the extra `tensorboard`).
        rank_timeout: seconds after which a silent rank ends a job of several processes.

    Raises:
        AbmllError: Naming every field that breaks its rule, the value and the rule.
    """

    num_steps: Count = 500
    episodes_per_step: Count = 1
    seed: int = 0
    checkpoint_every: Count = 100
    keep_checkpoints: Count = 2
    log_every: Count = 1
    validate_every: Count | None = None
    tensorboard: bool = False
    rank_timeout: Positive = 1800.0

    def __post_init__(self) -> None:
        require_fields(self)


def fingerprint(
    likelihood: Likelihood, method: Method, first_episode: Episode, training: Training, extra: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that the result of a run depends on, by name, as plain JSON values.

    `num_steps` belongs to it only under a schedule that depends on it: a constant learning rate may run on.
    """
    settings: dict[str, Any] = {
        "training.seed": training.seed,
        "training.episodes_per_step": training.episodes_per_step,
    }
    _describe("adapter", method.adapter, settings)
    _describe("outer", method.outer, settings)
    _describe("meta_learner", method.meta_learner, settings)
    if any(name.endswith("schedule") and value != "constant" for name, value in settings.items()):
        settings["training.num_steps"] = training.num_steps
    for role in (META, TASK):
        shapes = [[name, list(p.shape), str(p.dtype)] for name, p in likelihood.parameters(role).items()]
        settings[f"{role} parameters"] = f"{len(shapes)} tensors, names and shapes {_digest(shapes)}"
    settings["episodes"] = f"first task {first_episode.task!r}, its content {_digest(list(first_episode[:3]))}"
    for name, value in extra.items():
        _describe(name, value, settings)
    as_read: dict[str, Any] = json.loads(json.dumps(settings))
    return as_read


def require_equal(found: Mapping[str, Any], now: Mapping[str, Any], where: object) -> None:
    """Raises AbmllError that lists every setting in which a checkpoint and the present run differ."""
    names = [name for name in {**now, **found} if found.get(name) != now.get(name)]
    if not names:
        return
    differences = "; ".join(f"{name} was {found.get(name)!r} and is now {now.get(name)!r}" for name in names)
    raise AbmllError(
        f"cannot resume from {where}: it was written with other settings: {differences}. "
        "Set them back to resume, or train into another directory."
    )


def _describe(name: str, value: Any, into: dict[str, Any]) -> None:
    """Flattens configuration (dataclasses, mappings, plain values) to dotted names; others give their type."""
    if is_dataclass(value) and not isinstance(value, type):
        into[name] = type(value).__name__
        for field in fields(value):
            # Private and derived fields are state, not configuration.
            if field.init and not field.name.startswith("_"):
                _describe(f"{name}.{field.name}", getattr(value, field.name), into)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _describe(f"{name}.{key}", item, into)
    elif isinstance(value, list | tuple):
        into[name] = [item if _is_plain(item) else type(item).__name__ for item in value]
    else:
        into[name] = value if _is_plain(value) else type(value).__name__


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _digest(value: Any) -> str:
    text = json.dumps(value, default=lambda item: type(item).__name__)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
