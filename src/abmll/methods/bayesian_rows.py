"""Rows of the Bayesian rivals: weight-space posteriors around a point adapter, on any meta-learner."""

from __future__ import annotations

from typing import Literal

from abmll.core.types import AdapterSpec, Method, OuterOptimizer
from abmll.methods.gradient import GradientAdaptation
from abmll.methods.inner import InnerLoop
from abmll.methods.laplace import Laplace, Scope, Structure
from abmll.methods.multitask import MultiTask
from abmll.methods.reptile import Reptile

Start = Literal["none", "multitask", "reptile"]
"""Where adaptation starts: a fresh LoRA as published, or one that a meta-learner trained over all tasks."""


def _row(adaptation, start: Start, inner: InnerLoop) -> Method:
    """A LoRA, this adaptation, and the meta-learner (with the outer optimiser of its own row) that `start` names."""
    if start == "multitask":
        return Method(AdapterSpec(), adaptation, MultiTask(), OuterOptimizer("adamw", 3e-3, "linear"))
    if start == "reptile":
        return Method(AdapterSpec(), adaptation, Reptile(inner), OuterOptimizer("sgd", 0.5, "linear"))
    return Method(AdapterSpec(), adaptation, None)


def laplace(
    num_steps: int = 20,
    learning_rate: float = 3e-3,
    batch_size: int | None = None,
    start: Start = "multitask",
    structure: Structure = "kronecker",
    scope: Scope = "all",
    rank: int | None = None,
    prior_precision: float | None = None,
    prior_mean: Literal["zero", "meta"] = "zero",
    linearized: bool = True,
) -> Method:
    """Laplace-LoRA; `scope="last_layer"` is LLLA."""
    inner = InnerLoop(num_steps, learning_rate, batch_size=batch_size)
    adaptation = Laplace(GradientAdaptation(inner), structure, scope, rank, prior_precision, prior_mean, linearized)
    return _row(adaptation, start, inner)
