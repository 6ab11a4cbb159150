"""An inner loop whose steps are sized by the prior: natural-gradient steps in a trust region."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from abmll.core.errors import AbmllError
from abmll.core.params import clone, gradients, reset_task, train_only
from abmll.core.types import META, TASK, Example, Likelihood
from abmll.methods.parts.inner import batches_of

Tensors = dict[str, Tensor]


class Step(NamedTuple):
    """One step of the inner loop, as the way back through it needs it.

    Attributes:
        batch: the support examples of the step.
        point: φ before the step.
        gradient: of the batch's mean NLL at `point`.
        nll: that NLL, in nats.
    """

    batch: Sequence[Example]
    point: Tensors
    gradient: Tensors
    nll: float


@dataclass(frozen=True)
class NaturalSteps:
    """K steps on the mean of φ, from θ, under the prior N(θ, σ²), one variance σ² for each tensor:

        φ ← φ - c σ² g,    g = ∇ NLL(φ) of the batch,    c = d / (d + gᵀσ²g),    d = trust · NLL(φ)

    σ²g is the natural gradient of the NLL for a Gaussian of variance σ²: how far a tensor moves is how far tasks differ
    in it. To first order the step lowers the NLL by c gᵀσ²g, which is less than d: no step promises more than the share
    `trust` of what there is to gain, whatever the model, its width and the prior are. For gᵀσ²g ≪ d it is the plain
    natural-gradient step, for gᵀσ²g ≫ d Polyak's step towards an NLL of 0.

    Attributes:
        num_steps: K.
        trust: the share of the NLL that a step may promise, above 0 and at most 1.
        batch_size: how many support examples a step takes, in order and starting over at the end; None takes them all.
        log_var_offset: log σ² where the stored log-variance is 0.

    Source: Amari 1998, "Natural gradient works efficiently in learning"; Polyak 1987, "Introduction to optimization",
        section 5.3. A learned rate for each tensor: Meta-SGD, Li et al. 2017, arXiv 1707.09835.

    Raises: AbmllError for options out of range.
    """

    num_steps: int = 5
    trust: float = 0.3
    batch_size: int | None = None
    log_var_offset: float = 0.0

    def __post_init__(self) -> None:
        if self.num_steps < 0 or not 0 < self.trust <= 1 or (self.batch_size is not None and self.batch_size < 1):
            raise AbmllError(
                "inner loop: num_steps must be at least 0, trust above 0 and at most 1, and batch_size at least 1; got "
                f"num_steps={self.num_steps}, trust={self.trust}, batch_size={self.batch_size}."
            )

    def batches(self, support: Sequence[Example]) -> Iterator[Sequence[Example]]:
        """The K batches of the inner loop."""
        return batches_of(support, self.batch_size, self.num_steps)

    def run(self, likelihood: Likelihood, support: Sequence[Example]) -> float:
        """φ ← θ, then K steps. Returns the last step's NLL in nats, before the step (0 for K = 0)."""
        nll = 0.0
        for step in self.steps(likelihood, support):
            nll = step.nll
        return nll

    def steps(self, likelihood: Likelihood, support: Sequence[Example]) -> Iterator[Step]:
        """φ ← θ, then one step whenever the next is asked for; each is told after it is taken."""
        reset_task(likelihood)
        variance = self.variance(likelihood)
        phi = likelihood.parameters(TASK)
        for batch in self.batches(support):
            nll, gradient, _ = nll_gradient(likelihood, batch, variance)
            point = clone({name: phi[name] for name in variance})
            factor, _ = self.factor(nll, gradient, variance)
            with torch.no_grad():
                for name, share in variance.items():
                    phi[name].sub_(factor * share * gradient[name])
            yield Step(batch, point, gradient, nll)

    def factor(self, nll: float, gradient: Mapping[str, Tensor], variance: Mapping[str, float]) -> tuple[float, float]:
        """(c, gᵀσ²g) of a step. c is 1 where the gradient is 0."""
        length = sum(variance[name] * float(part.double().square().sum()) for name, part in gradient.items())
        allowed = self.trust * nll
        return (allowed / (allowed + length) if length else 1.0), length

    def variance(self, likelihood: Likelihood) -> dict[str, float]:
        """σ² of every tensor of φ that moves, by its name: exp of the mean stored log-variance and the offset."""
        theta = likelihood.parameters(META)
        pairs = {name: log_var_of(name) for name in theta if log_var_of(name) in theta and log_var_of(name) != name}
        if not pairs:
            raise AbmllError(
                "steps sized by the prior need an adapter with a variance for every tensor "
                '(AdapterSpec(kind="abmll", space="factors")).'
            )
        means = torch.stack([theta[log_var].detach().double().mean() for log_var in pairs.values()])
        return dict(zip(pairs, (means + self.log_var_offset).exp().tolist(), strict=True))


def log_var_of(name: str) -> str:
    """The name of the log-variance that belongs to the mean of this name."""
    head, found, tail = name.rpartition("mean")
    return f"{head}log_var{tail}" if found else name


def nll_gradient(
    likelihood: Likelihood, examples: Sequence[Example], names: Mapping[str, object]
) -> tuple[float, Tensors, int]:
    """The mean NLL of the examples at TASK, in nats, its gradient by TASK's tensors of these names, and its tokens."""
    train_only(likelihood, TASK)
    phi = {name: tensor for name, tensor in likelihood.parameters(TASK).items() if name in names}
    for name, tensor in likelihood.parameters(TASK).items():
        tensor.requires_grad_(name in phi)
    with likelihood.terms(examples) as terms:
        nll = terms.nll.mean()
        nll.backward()
    return float(nll.detach()), clone(gradients(phi)), terms.num_tokens
