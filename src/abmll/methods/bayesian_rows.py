"""Rows of the Bayesian rivals: weight-space posteriors around a point adapter, on any meta-learner."""

from __future__ import annotations

from typing import Literal, get_args

from abmll.core.errors import AbmllError, unknown_name
from abmll.core.types import Adaptation, AdapterSpec, Method, OuterOptimizer
from abmll.methods.bayesian_lora import BayesianLora
from abmll.methods.blob import Blob
from abmll.methods.gradient import GradientAdaptation, NoAdaptation
from abmll.methods.inner import InnerLoop
from abmll.methods.laplace import Laplace, Scope, Structure
from abmll.methods.multitask import MultiTask
from abmll.methods.reptile import Reptile
from abmll.methods.swag import Swag
from abmll.methods.tfb import TrainingFreeBayes

Start = Literal["none", "multitask", "reptile"]
"""Where adaptation starts: a fresh LoRA as published, or one that a meta-learner trained over all tasks."""


def _row(adaptation: Adaptation, start: Start, inner: InnerLoop, outer_learning_rate: float | None) -> Method:
    """A LoRA, this adaptation, and the meta-learner that `start` names.

    outer_learning_rate: of that meta-learner's outer optimiser; None takes the default of its own row for
        "multitask", and for "reptile" the paper's ε = 0.5, whose inner steps are AdamW's as here.
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


def laplace(
    num_steps: int = 20,
    learning_rate: float = 3e-3,
    batch_size: int | None = None,
    start: Start = "multitask",
    outer_learning_rate: float | None = None,
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
    return _row(adaptation, start, inner, outer_learning_rate)


def swag(
    num_steps: int = 20,
    learning_rate: float = 3e-3,
    batch_size: int | None = None,
    start: Start = "multitask",
    outer_learning_rate: float | None = None,
    first_step: int | None = None,
    every: int = 1,
    rank: int = 5,
    swag_learning_rate: float | None = None,
) -> Method:
    """SWAG-LoRA: the first half of the steps (or `first_step` of them) adapts, the second half is the sample."""
    inner = InnerLoop(num_steps, learning_rate, batch_size=batch_size)
    first_step = num_steps // 2 if first_step is None else first_step
    return _row(Swag(inner, first_step, every, rank, swag_learning_rate), start, inner, outer_learning_rate)


def tfb(
    num_steps: int = 20,
    learning_rate: float = 3e-3,
    batch_size: int | None = None,
    start: Start = "multitask",
    outer_learning_rate: float | None = None,
    tolerance: float = 0.003,
    min_sigma: float = 0.001,
    max_sigma: float = 0.2,
    num_iterations: int = 5,
    num_search_samples: int = 10,
) -> Method:
    """Training-free Bayesianization of a fine-tuned LoRA."""
    inner = InnerLoop(num_steps, learning_rate, batch_size=batch_size)
    adaptation = TrainingFreeBayes(
        GradientAdaptation(inner), tolerance, min_sigma, max_sigma, num_iterations, num_search_samples
    )
    return _row(adaptation, start, inner, outer_learning_rate)


def blob(
    num_steps: int = 20,
    learning_rate: float = 3e-3,
    batch_size: int | None = None,
    start: Start = "multitask",
    outer_learning_rate: float | None = None,
    prior_std: float = 0.2,
    prior_mean: Literal["zero", "meta"] = "zero",
    initial_std: float = 0.05,
    kl_learning_rate: float = 0.01,
    gamma: float = 8.0,
    flipout: bool = True,
) -> Method:
    """BLoB with its published prior, initialisation and schedule."""
    inner = InnerLoop(num_steps, learning_rate, batch_size=batch_size)
    return _row(
        Blob(inner, prior_std, prior_mean, initial_std, kl_learning_rate, gamma, flipout),
        start,
        inner,
        outer_learning_rate,
    )


def bayesian_lora(
    num_steps: int = 20,
    learning_rate: float = 3e-2,
    batch_size: int | None = None,
    start: Start = "multitask",
    outer_learning_rate: float | None = None,
    num_inducing: int = 9,
    prior_std: float = 1.0,
    kl_weight: float = 1.0,
) -> Method:
    """Bayesian-LoRA around where adaptation starts."""
    inner = InnerLoop(num_steps, learning_rate, batch_size=batch_size)
    adaptation = BayesianLora(NoAdaptation(), inner, num_inducing, prior_std, kl_weight)
    return _row(adaptation, start, inner, outer_learning_rate)
