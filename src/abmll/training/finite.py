"""Refusing numbers that are not finite, with what a person needs to find the cause."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from abmll.core.errors import AbmllError

_REMEDY = (
    "Lower the learning rate (the outer and the method's inner one), set outer.max_grad_norm, or check this task's "
    "examples for empty or broken rows. The last checkpoint is untouched."
)


def require_finite_metrics(metrics: Mapping[str, float], step: int, task: str) -> None:
    """Raises AbmllError naming the step, the task and the first term of the objective that is NaN or infinite."""
    for term, value in metrics.items():
        if not math.isfinite(value):
            raise AbmllError(f"outer step {step}, task {task!r}: {term} is {value}. {_REMEDY}")


def require_finite_gradient(meta: Mapping[str, Tensor], step: int, task: str) -> None:
    """The same for META's gradient: names the first parameter where it is not finite."""
    for name, parameter in meta.items():
        if parameter.grad is not None and (bad := _count_bad(parameter.grad)):
            raise AbmllError(
                f"outer step {step}, task {task!r}: the gradient of meta parameter {name!r} is not finite "
                f"({bad} of {parameter.numel()} values). {_REMEDY}"
            )


def require_finite_parameters(parameters: Mapping[str, Tensor], role: str, step: int, tasks: str) -> None:
    """The same for the parameters after the step that spoilt them."""
    for name, parameter in parameters.items():
        if bad := _count_bad(parameter):
            raise AbmllError(
                f"outer step {step}, after {tasks}: {role} parameter {name!r} is not finite "
                f"({bad} of {parameter.numel()} values). {_REMEDY}"
            )


def _count_bad(tensor: Tensor) -> int:
    return tensor.numel() - int(tensor.detach().isfinite().sum())
