"""An inner loop whose steps are sized by the prior: natural-gradient steps in a trust region."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from abmll.core.errors import AbmllError, unknown_name
from abmll.core.types import TASK, Likelihood
from abmll.methods.parts.prior_steps import PriorSteps, Step, Tensors, dot, nll_gradient

Gradient = Literal["exact", "first_order"]
RELATIVE = {torch.float64: 1e-5, torch.float32: 3e-4}
"""How far a finite difference goes, relative to φ, by the type that the model computes in; else `COARSE`."""
COARSE = 3e-3


@dataclass(frozen=True)
class NaturalSteps(PriorSteps):
    """K steps on the mean of φ, from θ, under the prior N(θ, σ²), one variance σ² for each tensor:

        φ ← φ - c σ² g,    g = ∇ NLL(φ) of the batch,    c = d / (d + gᵀσ²g),    d = trust · NLL(φ)

    σ²g is the natural gradient of the NLL for a Gaussian of variance σ²: how far a tensor moves is how far tasks differ
    in it. To first order the step lowers the NLL by c gᵀσ²g, which is less than d: no step promises more than the share
    `trust` of what there is to gain, whatever the model, its width and the prior are. For gᵀσ²g ≪ d it is the plain
    natural-gradient step, for gᵀσ²g ≫ d Polyak's step towards an NLL of 0.

    gradient="exact" walks back through the loop. From a gradient v by φ' that by φ is

        v - H u - (v·σ²g) q trust / (d + q)² g,    u = c σ²v - 2 (v·σ²g) d / (d + q)² σ²g,    q = gᵀσ²g

    with H the Hessian of the batch's NLL at φ. H u is taken from one more ordinary gradient, at φ + εu:
    (g(φ + εu) - g(φ)) / ε. Only φ_0 … φ_{K-1} and their gradients are kept, which are of a LoRA's size: no graph is, so
    checkpointing, fused attention and quantised models will do. By the variance of a tensor, with sums over that tensor
    alone in the brackets [ ]:

        ∂/∂ log σ² = -c [v·σ²g] + (v·σ²g) d / (d + q)² [gᵀσ²g]

    gradient="first_order" takes dφ'/dφ for the identity and spares the K passes.

    Attributes:
        trust: the share of the NLL that a step may promise, above 0 and at most 1.
        gradient: as above.
        The others are those of `PriorSteps`.

    Source: Amari 1998, "Natural gradient works efficiently in learning"; Polyak 1987, "Introduction to optimization",
        section 5.3. A learned rate for each tensor: Meta-SGD, Li et al. 2017, arXiv 1707.09835. Hessian-vector
        products by differences: Pearlmutter 1994, "Fast exact multiplication by the Hessian".

    Raises:
        AbmllError: For options out of range.
    """

    num_steps: int = 5
    trust: float = 0.3
    batch_size: int | None = None
    log_var_offset: float = 0.0
    gradient: Gradient = "exact"

    def __post_init__(self) -> None:
        if self.gradient not in get_args(Gradient):
            raise unknown_name("gradient", self.gradient, get_args(Gradient))
        if self.num_steps < 0 or not 0 < self.trust <= 1 or (self.batch_size is not None and self.batch_size < 1):
            raise AbmllError(
                "inner loop: num_steps must be at least 0, trust above 0 and at most 1, and batch_size at least 1; got "
                f"num_steps={self.num_steps}, trust={self.trust}, batch_size={self.batch_size}."
            )

    def mover(self, phi: Tensors, variance: Mapping[str, float]) -> Callable[[float, Tensors], None]:
        @torch.no_grad()
        def move(nll: float, gradient: Tensors) -> None:
            factor, _ = self.factor(nll, gradient, variance)
            for name, share in variance.items():
                phi[name].sub_(factor * share * gradient[name])

        return move

    def factor(self, nll: float, gradient: Mapping[str, Tensor], variance: Mapping[str, float]) -> tuple[float, float]:
        """(c, gᵀσ²g) of a step. c is 1 where the gradient is 0."""
        length = sum(variance[name] * float(part.double().square().sum()) for name, part in gradient.items())
        allowed = self.trust * nll
        return (allowed / (allowed + length) if length else 1.0), length

    def back(
        self, likelihood: Likelihood, steps: Sequence[Step], v: Tensors, variance: Mapping[str, float]
    ) -> tuple[Tensors, dict[str, float]]:
        of_log_var = dict.fromkeys(variance, 0.0)
        for step in reversed(steps):
            v, by_log_var = self._before(likelihood, step, v, variance)
            for name, value in by_log_var.items():
                of_log_var[name] += value
        return v, of_log_var

    def examples(self, support: int) -> int:
        return super().examples(support) * (2 if self.gradient == "exact" else 1)

    def _before(
        self, likelihood: Likelihood, step: Step, v: Tensors, variance: Mapping[str, float]
    ) -> tuple[Tensors, dict[str, float]]:
        """The gradient by φ before the step from that by φ after it, and the step's own by each log σ²."""
        g = step.gradient
        c, q = self.factor(step.nll, g, variance)
        d = self.trust * step.nll
        shared = d / (d + q) ** 2 if q else 0.0
        of_tensor = {name: variance[name] * dot(v[name], g[name]) for name in g}
        along = sum(of_tensor.values())
        by_log_var = {
            name: -c * of_tensor[name] + along * shared * variance[name] * dot(g[name], g[name]) for name in g
        }
        if self.gradient == "first_order":
            return v, by_log_var
        u = {name: variance[name] * (c * v[name] - 2 * along * shared * g[name]) for name in g}
        Hu = self._hessian_product(likelihood, step, u, variance)
        pull = along * q * self.trust / (d + q) ** 2 if q else 0.0
        return {name: v[name] - Hu[name] - pull * g[name] for name in g}, by_log_var

    def _hessian_product(
        self, likelihood: Likelihood, step: Step, u: Tensors, variance: Mapping[str, float]
    ) -> Tensors:
        """H u of the step's batch at its point, by one more gradient; zeros where u is zero."""
        length, size = norm(u.values()), norm(step.point.values())
        if not length:
            return u
        phi = likelihood.parameters(TASK)
        reach = relative_reach(likelihood) * (size or 1.0) / length
        with torch.no_grad():
            for name, direction in u.items():
                phi[name].copy_(step.point[name] + reach * direction)
        _, moved, _ = nll_gradient(likelihood, step.batch, variance)
        return {name: (moved[name] - step.gradient[name]) / reach for name in u}


def relative_reach(likelihood: Likelihood) -> float:
    """How far a finite difference goes, relative to φ: far enough that rounding is small, near enough that H is one."""
    own = next(iter(likelihood.parameters(TASK).values())).dtype
    return RELATIVE.get(getattr(likelihood, "dtype", own), COARSE)


def norm(tensors: Iterable[Tensor]) -> float:
    """The Euclidean norm of several tensors together."""
    return math.sqrt(sum(dot(tensor, tensor) for tensor in tensors))
