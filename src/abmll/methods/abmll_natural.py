"""ABMLL with natural-gradient steps and the exact gradient through them."""

from __future__ import annotations

from abmll.core.types import Method
from abmll.methods.parts.amortised import Amortised, amortised
from abmll.methods.parts.natural import Gradient, NaturalSteps
from abmll.methods.parts.scaled import SCALE_FOLDS, SCALE_MEAN, SCALE_STD, CrossFittedScale
from abmll.methods.parts.space import OUTER_RATE, Choice, LogUniform, searched


@searched(
    trust=LogUniform(0.03, 0.5),
    outer_learning_rate=OUTER_RATE,
    support_weight=Choice((0.1, 0.3, 1.0)),
    scale_mean=LogUniform(0.4, 1.4),
)
def abmll_natural(
    num_steps: int = 5,
    trust: float = 0.3,
    batch_size: int | None = None,
    outer_learning_rate: float = 2e-3,
    variance_rate: float = 25.0,
    log_var_offset: float = 0.0,
    support_weight: float = 1.0,
    gradient: Gradient = "exact",
    warm_up: float = 0.5,
    symmetric: bool = False,
    scale: bool = True,
    scale_mean: float = SCALE_MEAN,
    scale_std: float = SCALE_STD,
    scale_folds: int = SCALE_FOLDS,
) -> Method:
    """`abmll-adam` with natural-gradient steps in a trust region, taught by the exact gradient through them.

    The better one for small models that were never trained on much, such as the embedded one; on a real language model
    `abmll-adam` is (docs/log.md).

    Args:
        trust: the share of the NLL that an inner step may promise to take away.
        variance_rate: how many times faster log-variances learn than means.
        log_var_offset: log σ² of the prior at first; the trust region makes the start matter little.
        support_weight: of the support's own NLL at θ in the outer objective.
        gradient: "first_order" spares half of an outer step's time.
        warm_up: the share of the outer steps that take no inner steps yet, and cost little.
        symmetric: let each half of an episode be the support once, for twice the time.
        scale: fit the scale, for two adaptations of half size; scale_mean, scale_std and scale_folds are its own.
    """
    inner = NaturalSteps(num_steps, trust, batch_size, log_var_offset, gradient)
    method = amortised(Amortised(inner, support_weight, warm_up, symmetric), outer_learning_rate, variance_rate)
    if not scale:
        return method
    return method._replace(adaptation=CrossFittedScale(method.adaptation, scale_mean, scale_std, scale_folds))
