"""Where a weight-space posterior's adaptation starts: a fresh LoRA, or what a meta-learner trained."""

from __future__ import annotations

from typing import Literal, get_args

from abmll.core.errors import AbmllError, unknown_name
from abmll.core.types import Adaptation, AdapterSpec, Method, OuterOptimizer
from abmll.methods.multitask import MultiTask
from abmll.methods.parts.inner import InnerLoop
from abmll.methods.parts.space import OUTER_RATE, REPTILE_RATE, Choice, Given, Space
from abmll.methods.reptile import Reptile

Start = Literal["none", "multitask", "reptile"]
"""Where adaptation starts: a fresh LoRA as published, or one that a meta-learner trained over all tasks."""
STARTS: Space = {
    "start": Choice(("none", "multitask", "reptile")),
    "outer_learning_rate": Given("start", {"multitask": OUTER_RATE, "reptile": REPTILE_RATE}),
}
"""What is searched of a start."""


def from_start(adaptation: Adaptation, start: Start, inner: InnerLoop, outer_learning_rate: float | None) -> Method:
    """A LoRA, this adaptation, and the meta-learner that `start` names.

    Args:
        outer_learning_rate: of that meta-learner's outer optimiser; None takes the default of the method of that name
            for "multitask", and for "reptile" the paper's ε = 0.5, whose inner steps are AdamW's as here.
    """
    if start not in get_args(Start):
        raise unknown_name("start", start, get_args(Start))
    if start == "none":
        if outer_learning_rate is not None:
            raise AbmllError(
                f'outer_learning_rate={outer_learning_rate} has no effect with start="none", which trains nothing. '
                'Leave it out, or start from "multitask" or "reptile".'
            )
        return Method(AdapterSpec(), adaptation, None)
    if start == "multitask":
        return Method(
            AdapterSpec(), adaptation, MultiTask(), OuterOptimizer("adamw", outer_learning_rate or 3e-3, "linear")
        )
    return Method(
        AdapterSpec(), adaptation, Reptile(inner), OuterOptimizer("sgd", outer_learning_rate or 0.5, "linear")
    )
