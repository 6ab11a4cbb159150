"""ABMLL by gradient steps: a Gaussian prior over LoRA parameters; adapting is a few of Adam's steps sized by it."""

from __future__ import annotations

import math

from abmll.core.errors import AbmllError
from abmll.core.types import Method
from abmll.methods.parts.adam_steps import AdamSteps
from abmll.methods.parts.amortised import Amortised, amortised
from abmll.methods.parts.scaled import SCALE_FOLDS, SCALE_MEAN, SCALE_STD, CrossFittedScale
from abmll.methods.parts.space import OUTER_RATE, Choice, LogUniform, searched


@searched(
    learning_rate=LogUniform(3e-4, 1e-2),
    outer_learning_rate=OUTER_RATE,
    support_weight=Choice((0.1, 0.3, 1.0)),
    scale_mean=LogUniform(0.4, 1.4),
)
def abmll_adam(
    num_steps: int = 5,
    learning_rate: float = 1e-3,
    batch_size: int | None = None,
    outer_learning_rate: float = 2e-3,
    variance_rate: float = 25.0,
    support_weight: float = 1.0,
    warm_up: float = 0.0,
    symmetric: bool = True,
    scale: bool = True,
    scale_mean: float = SCALE_MEAN,
    scale_std: float = SCALE_STD,
    scale_folds: int = SCALE_FOLDS,
) -> Method:
    """ABMLL by gradient steps on the LoRA: a task's adapter is an ordinary LoRA, which any server loads.

    A Gaussian prior over LoRA parameters is learned over tasks; adapting is a few of Adam's steps, a standard
    deviation of it long.

    The prior is learned from what each half of a task's rows says of the other; a posterior over one scale of the
    log-probabilities says how sure to be of a task. Each part is an option, measured in docs/log.md.

    Args:
        learning_rate: the prior's standard deviation at first, which is the length of a step; learned from then on.
        variance_rate: how many times faster log-variances learn than means.
        support_weight: of the support's own NLL at θ in the outer objective.
        warm_up: the share of the outer steps that take no inner steps yet: half of them for half of the training's
            time.
        symmetric: let each half of an episode be the support once; without it an outer step takes half of the time.
        scale: fit the scale, for two adaptations of half size; scale_mean, scale_std and scale_folds are its own.
    """
    if learning_rate <= 0:
        raise AbmllError(f"learning_rate must be above 0, got {learning_rate}.")
    inner = AdamSteps(num_steps, batch_size, log_var_offset=2 * math.log(learning_rate))
    method = amortised(Amortised(inner, support_weight, warm_up, symmetric), outer_learning_rate, variance_rate)
    if not scale:
        return method
    return method._replace(adaptation=CrossFittedScale(method.adaptation, scale_mean, scale_std, scale_folds))
