"""Every method once more, with a scale of its own fitted to each task."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

from abmll.core.errors import AbmllError
from abmll.core.types import Method
from abmll.methods.parts.scaled import CrossFittedScale

SCALE = "+scale"
"""What the name of such a method ends with."""


def with_scale(name: str, factory: Callable[..., Method]) -> Callable[..., Method]:
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

    def scaled(*, scale_mean: float = 0.7, scale_std: float = 0.4, scale_folds: int = 2, **options: Any) -> Method:
        method = factory(**options)
        return method._replace(adaptation=CrossFittedScale(method.adaptation, scale_mean, scale_std, scale_folds))

    own = [p for p in inspect.signature(scaled).parameters.values() if p.kind is not p.VAR_KEYWORD]
    inner = [p.replace(kind=p.KEYWORD_ONLY) for p in inspect.signature(factory).parameters.values()]
    hints = {**get_type_hints(factory, include_extras=True), **get_type_hints(scaled)}
    hints.pop("options")
    scaled.__name__ = scaled.__qualname__ = f"{factory.__name__}_scaled"
    scaled.__doc__ = f"{name}, with a scale of its log-probabilities fitted to each task."
    scaled.__signature__ = inspect.Signature([*inner, *own])  # type: ignore[attr-defined]
    scaled.__annotations__ = hints
    return scaled
