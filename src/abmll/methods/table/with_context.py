"""Every method once more, shown solved rows of the support set before each question, in training too if wanted."""

from __future__ import annotations

import inspect
from typing import Any

from abmll.core.errors import AbmllError
from abmll.core.types import Method
from abmll.methods.in_context import InContext
from abmll.methods.metaicl import MetaIcl
from abmll.methods.parts.no_model import needs_model
from abmll.methods.table.extended import Factory, extended

ICL, METAICL = "+icl", "+metaicl"
"""What the names of such methods end with: shown demonstrations at test time alone, and in meta-training as well."""


def with_context(name: str, factory: Factory, *, in_training: bool) -> Factory:
    """The factory of the method `name` with demonstrations; its options and `num_demonstrations`.

    Args:
        name: of the method without demonstrations.
        factory: of the method without demonstrations.
        in_training: show them in meta-training too.

    Returns:
        A factory that takes the options of `factory`, and num_demonstrations.

    Raises:
        AbmllError: if the method shows demonstrations itself.
    """
    ending = METAICL if in_training else ICL
    if "num_demonstrations" in inspect.signature(factory).parameters:
        raise AbmllError(f"{name} shows demonstrations itself: name it without {ending}.")

    def in_context(*, num_demonstrations: int = 8, **options: Any) -> Method:
        method = factory(**options)
        if not needs_model(method):
            raise AbmllError(f"{name} asks no model, and can be shown nothing: name it without {ending}.")
        method = method._replace(adaptation=InContext(method.adaptation, num_demonstrations))
        if not in_training:
            return method
        if method.meta_learner is None:
            raise AbmllError(f"{name} learns nothing across tasks: demonstrations at test time are {name}{ICL}.")
        return method._replace(meta_learner=MetaIcl(method.meta_learner, num_demonstrations))

    when = "in meta-training and at test time" if in_training else "at test time"
    return extended(factory, in_context, f"{name}, shown solved rows of the support set before every question {when}.")
