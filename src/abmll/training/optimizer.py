"""The outer optimiser: META's mean gradient becomes one step."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from abmll.core.errors import unknown_name
from abmll.core.types import OuterOptimizer

_OPTIMIZERS = ("adamw", "sgd")
_SCHEDULES = ("constant", "linear", "cosine")


def build(outer: OuterOptimizer, meta: Mapping[str, Tensor]) -> torch.optim.Optimizer:
    """The torch optimiser over META: AdamW without weight decay, or plain SGD.

    Raises AbmllError for an unknown optimiser or schedule.
    """
    if outer.schedule not in _SCHEDULES:
        raise unknown_name("learning-rate schedule", outer.schedule, _SCHEDULES)
    groups = [{"params": list(meta.values()), "times": 1.0}]
    if outer.log_var_rate != 1:
        variances = [tensor for name, tensor in meta.items() if "log_var" in name]
        means = [tensor for name, tensor in meta.items() if "log_var" not in name]
        groups = [{"params": means, "times": 1.0}, {"params": variances, "times": outer.log_var_rate}]
    if outer.name == "adamw":
        return torch.optim.AdamW(groups, lr=outer.learning_rate, weight_decay=0.0)
    if outer.name == "sgd":
        return torch.optim.SGD(groups, lr=outer.learning_rate)
    raise unknown_name("outer optimizer", outer.name, _OPTIMIZERS)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The rate of the next step: `rate` times what each group takes of it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("times", 1.0)


def learning_rate(outer: OuterOptimizer, step: int, num_steps: int) -> float:
    """The learning rate of outer step `step` (from 0), a pure function, so that a schedule has no state.

    With t = step / num_steps: constant; linear, 1 - t; cosine, (1 + cos πt) / 2, each times `outer.learning_rate`.
    """
    fraction = step / num_steps
    if outer.schedule == "linear":
        return outer.learning_rate * (1 - fraction)
    if outer.schedule == "cosine":
        return outer.learning_rate * 0.5 * (1 + math.cos(math.pi * fraction))
    return outer.learning_rate


def clip_(gradient: Tensor, max_norm: float | None) -> float:
    """Scales the flat `gradient` in place to at most `max_norm` (Euclidean); returns its norm before that."""
    norm = float(torch.linalg.vector_norm(gradient, dtype=torch.float64))
    if max_norm is not None and norm > max_norm:
        gradient.mul_(max_norm / norm)
    return norm
