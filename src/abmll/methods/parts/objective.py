"""The tempered negative evidence lower bound of one batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from torch import Tensor

from abmll.core.errors import unknown_name
from abmll.core.types import Estimator, Terms

Reduction = Literal["mean", "sum", "example"]
Schedule = Literal["constant", "warmup", "decay"]


@dataclass(frozen=True)
class Objective:
    """NLL + β·KL(φ ‖ θ) + γ·(-log p(θ)), in nats.

    Attributes:
        kl_weight: β. 0 leaves the KL out, and its cost.
        kl_schedule: of β over meta-training: "constant"; "warmup", from 0 to β over the first half of the outer steps
            and β from then on; "decay", from β to 0 over all of them. An inner loop has no schedule: a new task is
            adapted to after the last outer step, with what the training ended with.
        prior_weight: γ, the weight of the hyper-prior; only the outer loop can use it.
        reduction: "sum" adds everything up, as published (NLL over the batch's supervised tokens, KL and prior over all
            its non-padding tokens); "mean" takes the NLL per example and the KL and prior per token, so that β does not
            change its meaning with the length of the text or the size of the batch; "example" takes all of them per
            example, which with β = 1 is the exact bound for a Gaussian over weights: its KL is one number, however long
            the text.
        estimator: of the KL: "closed_form", or the published one-sample estimate.
        sample: draw φ from its Gaussian in the NLL; without it, the NLL is taken at the mean.

    Source: arXiv 2508.14285, equation of the tempered ELBO; one β for both KL terms from v2 on.
    Warm-up of the KL: Bowman et al. 2016, arXiv 1511.06349.

    Raises:
        AbmllError: For an unknown schedule.
    """

    kl_weight: float = 0.0
    prior_weight: float = 0.0
    reduction: Reduction = "mean"
    estimator: Estimator = "closed_form"
    sample: bool = False
    kl_schedule: Schedule = "constant"

    def __post_init__(self) -> None:
        if self.kl_schedule not in get_args(Schedule):
            raise unknown_name("kl_schedule", self.kl_schedule, get_args(Schedule))

    def at(self, progress: float) -> Objective:
        """The objective when this share of meta-training is done, with its β of then."""
        factor = {"constant": 1.0, "warmup": min(1.0, 2 * progress), "decay": 1 - progress}[self.kl_schedule]
        return replace(self, kl_weight=factor * self.kl_weight)

    @property
    def kl(self) -> Estimator | None:
        """The estimator to ask a likelihood for; None if the KL has no weight."""
        return self.estimator if self.kl_weight else None

    def nll(self, terms: Terms) -> Tensor:
        return terms.nll.sum() if self.reduction == "sum" else terms.nll.mean()

    def regulariser(self, terms: Terms) -> Tensor:
        """β·KL + γ·(-log p(θ)): the part of the objective that reaches θ."""
        penalty = self.kl_weight * terms.kl + self.prior_weight * terms.hyper
        if self.reduction == "sum":
            return penalty
        return penalty / (terms.num_tokens if self.reduction == "mean" else len(terms.nll))

    def __call__(self, terms: Terms) -> Tensor:
        return self.nll(terms) + self.regulariser(terms)
