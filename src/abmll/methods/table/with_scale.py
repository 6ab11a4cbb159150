"""Every method once more, with a scale of its own fitted to each task."""

from __future__ import annotations

import inspect
from typing import Any

from abmll.core.errors import AbmllError
from abmll.core.types import Method
from abmll.methods.parts.scaled import SCALE_FOLDS, SCALE_MEAN, SCALE_STD, CrossFittedScale
from abmll.methods.table.extended import Factory, extended

SCALE = "+scale"
"""What the name of such a method ends with."""


def with_scale(name: str, factory: Factory) -> Factory:
    """The factory of the method `name`, whose adaptation gets a cross-fitted scale; its options and the scale's.

    Args:
        name: of the method without a scale.
        factory: of the method without a scale.

    Returns:
        A factory that takes the options of `factory`, and scale_mean, scale_std and scale_folds.

    Raises:
        AbmllError: if the method has a scale of its own.
    """
    if "scale_mean" in inspect.signature(factory).parameters:
        raise AbmllError(f"{name} has a scale of its own: name it without {SCALE}.")

    def scaled(
        *,
        scale_mean: float = SCALE_MEAN,
        scale_std: float = SCALE_STD,
        scale_folds: int = SCALE_FOLDS,
        **options: Any,
    ) -> Method:
        method = factory(**options)
        return method._replace(adaptation=CrossFittedScale(method.adaptation, scale_mean, scale_std, scale_folds))

    return extended(factory, scaled, f"{name}, with a scale of its log-probabilities fitted to each task.")
