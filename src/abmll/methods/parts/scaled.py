"""A posterior over how sure to be: one scale of the log-probabilities, learned from cross-fitted predictions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from abmll.core.errors import AbmllError
from abmll.core.passes import Passes
from abmll.core.types import Adaptation, Example, Likelihood, Posterior
from abmll.methods.parts.passes import adaptation_passes, query_passes

WEIGHTS = "scale_weights"
"""Name of p(a | support) on the grid, among the tensors of a posterior."""
LOW, HIGH, POINTS = -3.0, 5.0, 401
"""The grid of scales: so wide that a prior of `MAX_STD` lies on it, so fine that sums over it are integrals."""
MAX_STD = 1.0
SCALE_MEAN, SCALE_STD, SCALE_FOLDS = 0.7, 0.4, 2
"""The prior of a scale and the folds it is fitted on, wherever nothing else is said. Adaptations to a handful of labels
are over-confident, so the mean is below 1."""


def grid() -> Tensor:
    """The scales a that are considered, (POINTS,), float64."""
    return torch.linspace(LOW, HIGH, POINTS, dtype=torch.float64)


def scaled(log_probs: Tensor, scale: Tensor | float) -> Tensor:
    """log softmax(a · log p) over the last dimension; choices that are absent (-inf) stay absent for every a.

    Args:
        log_probs: (..., choices).
        scale: a, of a shape that broadcasts with log_probs. 1 changes nothing, 0 is uniform over the choices that
            there are, a negative one says the contrary.
    """
    absent = torch.isneginf(log_probs)
    return (scale * log_probs.masked_fill(absent, 0.0)).masked_fill(absent, -torch.inf).log_softmax(-1)


def scale_posterior(log_probs: Tensor, targets: Tensor, mean: float, std: float) -> Tensor:
    """p(a | rows) on the grid under the prior a ~ N(mean, std²) and independent rows.

    Args:
        log_probs: (samples, rows, choices); a row's probability is the mean over samples of the scaled ones.
        targets: (rows,), the right choices.
        mean, std: of the prior.

    Returns:
        (POINTS,) probabilities, float64. Without rows they are the prior's.
    """
    a = grid()
    log_weights = -0.5 * ((a - mean) / std).square()
    if len(targets):
        log_likelihoods = []
        for some in a.split(50):  # the whole grid at once is large for many rows of many choices
            each = scaled(log_probs.double(), some[:, None, None, None])  # (some, samples, rows, choices)
            right = each.gather(-1, targets.view(1, 1, -1, 1).expand(*each.shape[:3], 1)).squeeze(-1)
            log_likelihoods.append((right.logsumexp(1) - math.log(right.shape[1])).sum(-1))
        log_weights = log_weights + torch.cat(log_likelihoods)
    return log_weights.softmax(0)


def folds_of(targets: Sequence[int], count: int) -> list[list[int]]:
    """Positions of the rows in each of `count` folds, every label dealt out evenly.

    Rows are dealt in the order of their targets: a support set whose labels take turns would otherwise put one label
    into one fold and the other into the next.
    """
    order = sorted(range(len(targets)), key=lambda place: targets[place])
    return [sorted(order[fold::count]) for fold in range(min(count, len(targets)))]


def cross_fitted(
    adaptation: Adaptation, likelihood: Likelihood, support: Sequence[Example], folds: int, num_samples: int
) -> Tensor:
    """Each row as predicted by the adaptation to the other folds, (samples, rows, choices) in float64.

    Honest for rows as new ones are: no row is predicted by what has seen its label.
    """
    parts = []
    for held in folds_of([example.known_target for example in support], folds):
        seen = set(held)
        posterior = adaptation.adapt(likelihood, [e for place, e in enumerate(support) if place not in seen])
        parts.append((held, posterior.predict([support[place] for place in held], num_samples).double().cpu()))
    width = max(part.shape[-1] for _, part in parts)
    out = parts[0][1].new_full((parts[0][1].shape[0], len(support), width), -torch.inf)
    for held, part in parts:
        out[:, held, : part.shape[-1]] = part
    return out


@dataclass(frozen=True)
class CrossFittedScale:
    """Any adaptation, its log-probabilities multiplied by a scale with a posterior of its own.

    The support set is cut into folds; each is predicted by an adaptation to the others. From those honest
    predictions and the prior follows p(a | support), and new rows are predicted by the mean over it of
    softmax(a · log p), where log p is of the adaptation to all rows. Few labels leave the scale near its prior and its
    posterior wide, many make it sharp. The sign is free: what points the wrong way is turned round or shut off.

    With two folds it costs two adaptations of half the rows beside the whole one, and no pass at prediction.

    Attributes:
        adaptation: any.
        mean: of the prior on a.
        std: likewise.
        folds: how many.
        num_samples: of a sampling posterior, in the folds' predictions.

    Source: temperature scaling (Guo et al. 2017, arXiv 1706.04599) on cross-fitted predictions, with a Gaussian prior
        and a posterior in place of a point.

    Raises:
        AbmllError: For options out of range.
    """

    adaptation: Adaptation
    mean: float = SCALE_MEAN
    std: float = SCALE_STD
    folds: int = SCALE_FOLDS
    num_samples: int = 10

    def __post_init__(self) -> None:
        if not 0 < self.std <= MAX_STD or not 0 <= self.mean <= 2 or self.folds < 2:
            raise AbmllError(
                f"scale: its prior needs a mean between 0 and 2 and a standard deviation above 0 and up to {MAX_STD}, "
                f"and cross-fitting at least 2 folds; got mean={self.mean}, std={self.std}, folds={self.folds}."
            )

    def adapt(self, likelihood: Likelihood, support: Sequence[Example]) -> ScaledPosterior:
        honest = torch.empty(1, 0, 1)
        if len(support) >= 2:
            honest = cross_fitted(self.adaptation, likelihood, support, self.folds, self.num_samples)
        targets = torch.tensor([example.known_target for example in support][: honest.shape[1]], dtype=torch.long)
        # The whole last, so that TASK is left as the posterior has it.
        posterior = self.adaptation.adapt(likelihood, support)
        return ScaledPosterior(posterior, scale_posterior(honest, targets, self.mean, self.std))

    def restore(self, likelihood: Likelihood, state: Mapping[str, Tensor]) -> ScaledPosterior:
        inner = {name: tensor for name, tensor in state.items() if name != WEIGHTS}
        return ScaledPosterior(self.adaptation.restore(likelihood, inner), state[WEIGHTS].double().cpu())

    def passes(self, support: int) -> Passes:
        total = adaptation_passes(self.adaptation, support)
        for held in map(len, folds_of([0] * support, self.folds) if support >= 2 else []):
            judged = query_passes(self.adaptation, self.num_samples).times(held)
            total = total.plus(adaptation_passes(self.adaptation, support - held)).plus(judged)
        return total

    def query_passes(self, num_samples: int) -> Passes:
        return query_passes(self.adaptation, num_samples)


class ScaledPosterior:
    """Another posterior's samples, each with a scale of its own from p(a | support)."""

    def __init__(self, posterior: Posterior, weights: Tensor) -> None:
        self._posterior = posterior
        self.weights = weights.clone()

    def without_scale(self) -> Posterior:
        """What is scaled."""
        return self._posterior

    @property
    def scale(self) -> tuple[float, float]:
        """Mean and standard deviation of p(a | support)."""
        mean = (self.weights * grid()).sum()
        return float(mean), math.sqrt(float((self.weights * (grid() - mean).square()).sum()))

    def scales(self, count: int) -> Tensor:
        """`count` scales of equal weight, (count,): the means of as many equal slices of p(a | support).

        Their average is the posterior's mean, and no noise is drawn: a prediction is the same every time.
        """
        edges = torch.linspace(0, 1, count + 1, dtype=torch.float64)
        upper = self.weights.cumsum(0)
        lower = upper - self.weights
        share = (torch.minimum(upper, edges[1:, None]) - torch.maximum(lower, edges[:-1, None])).clamp_min(0)
        return (share @ grid()) / share.sum(1)

    def predict(self, query: Sequence[Example], num_samples: int) -> Tensor:
        """Log-probabilities (at least num_samples, examples, choices): equally many scales for every inner sample."""
        inner = self._posterior.predict(query, num_samples)
        times = max(1, math.ceil(num_samples / len(inner)))
        scales = self.scales(times * len(inner)).to(inner)
        return scaled(inner.repeat(times, 1, 1), scales[:, None, None])

    def mean(self) -> dict[str, Tensor] | None:
        """The inner posterior's: no adapter can say a scale."""
        return self._posterior.mean()

    def state_dict(self) -> dict[str, Tensor]:
        return {**self._posterior.state_dict(), WEIGHTS: self.weights.clone()}

    def __repr__(self) -> str:
        mean, deviation = self.scale
        return f"ScaledPosterior(scale {mean:.2f} ± {deviation:.2f} of {self._posterior!r})"
