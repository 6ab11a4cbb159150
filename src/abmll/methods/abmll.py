"""ABMLL's outer loop: θ and its variances by the exact gradient through the inner loop, at the memory of a LoRA."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from abmll.core.errors import AbmllError, unknown_name
from abmll.core.params import add_to_grad, reset_task
from abmll.core.passes import Passes
from abmll.core.types import META, TASK, AdapterSpec, Episode, Likelihood, Method, Metrics, OuterOptimizer
from abmll.methods.parts.gradient import GradientAdaptation
from abmll.methods.parts.inner import examples_of
from abmll.methods.parts.natural import NaturalSteps, Step, Tensors, log_var_of, nll_gradient
from abmll.methods.parts.scaled import CrossFittedScale
from abmll.methods.parts.space import OUTER_RATE, Choice, LogUniform, searched
from abmll.methods.parts.stateless import Stateless

Gradient = Literal["exact", "first_order"]
RELATIVE = {torch.float64: 1e-5, torch.float32: 3e-4}
"""How far a finite difference goes, relative to φ, by the type that the model computes in; else `COARSE`."""
COARSE = 3e-3


@dataclass(frozen=True)
class Amortised(Stateless):
    """The gradient of the joint objective by θ = (μ, log σ²):

        L(θ) = NLL(query; φ_K(θ)) + w · NLL(support; μ)

    φ_K is what K `NaturalSteps` make of μ. The second term keeps μ good before anything is adapted, without which the
    first lets it drift to where only adapting helps; its gradient is that of the first inner step, so it is free.

    gradient="exact" walks back through the inner loop. A step is φ' = φ - c σ²g; from a gradient v by φ' that by φ is

        v - H u - (v·σ²g) q trust / (d + q)² g,    u = c σ²v - 2 (v·σ²g) d / (d + q)² σ²g,    q = gᵀσ²g

    with H the Hessian of the batch's NLL at φ, and c, d as in `NaturalSteps`. H u is taken from one more ordinary
    gradient, at φ + εu: (g(φ + εu) - g(φ)) / ε. Only φ_0 … φ_{K-1} and their gradients are kept, which are of a LoRA's
    size: no graph is, so checkpointing, fused attention and quantised models will do. By the variance of a tensor, with
    sums over that tensor alone in the brackets [ ]:

        ∂/∂ log σ² = -c [v·σ²g] + (v·σ²g) d / (d + q)² [gᵀσ²g]

    gradient="first_order" takes dφ'/dφ for the identity and spares the K passes.

    At first θ knows nothing of the tasks, its NLL is large and steep, and what is learned through K steps from there is
    mostly noise. So the first share `warm_up` of the outer steps take K = 0: NLL(support ∪ query; μ), one pass.

    Attributes:
        inner: the inner loop.
        support_weight: w.
        gradient, warm_up: as above.

    Source: MAML's gradient, Finn et al. 2017, arXiv 1703.03400. Hessian-vector products by differences: Pearlmutter
        1994, "Fast exact multiplication by the Hessian". The support's own loss is the k = 0 term of the multi-step
        loss of MAML++, Antoniou et al. 2019, arXiv 1810.09502.

    Raises: AbmllError for options out of range.
    """

    equal_passes: ClassVar[bool] = True
    inner: NaturalSteps = NaturalSteps()
    support_weight: float = 1.0
    gradient: Gradient = "exact"
    warm_up: float = 0.0

    def __post_init__(self) -> None:
        if self.gradient not in get_args(Gradient):
            raise unknown_name("gradient", self.gradient, get_args(Gradient))
        if self.support_weight < 0:
            raise AbmllError(f"support_weight must be at least 0, got {self.support_weight}.")
        if not 0 <= self.warm_up < 1:
            raise AbmllError(f"warm_up must be at least 0 and below 1, got {self.warm_up}.")

    def meta_gradient(self, likelihood: Likelihood, episode: Episode) -> Metrics:
        variance = self.inner.variance(likelihood)
        if episode.progress < self.warm_up:
            return self._without_steps(likelihood, episode, variance)
        steps = list(self.inner.steps(likelihood, episode.support))
        query_nll, v, num_tokens = nll_gradient(likelihood, episode.query, variance)
        of_log_var = dict.fromkeys(variance, 0.0)
        for step in reversed(steps):
            v, by_log_var = self._before(likelihood, step, v, variance)
            for name, value in by_log_var.items():
                of_log_var[name] += value
        metrics = {"inner_loss": steps[-1].nll if steps else 0.0, "nll": query_nll, "num_tokens": float(num_tokens)}
        if steps:
            v = {name: v[name] + self.support_weight * steps[0].gradient[name] for name in v}
            metrics["support_nll"] = steps[0].nll
        theta = likelihood.parameters(META)
        whole = {name: torch.zeros_like(tensor) for name, tensor in theta.items()}
        for name, value in of_log_var.items():
            log_var = log_var_of(name)  # σ² is the mean over the stored tensor's elements: each has its share
            whole[name] = v[name]
            whole[log_var] = torch.full_like(theta[log_var], value / theta[log_var].numel())
        add_to_grad(theta, whole)
        return metrics

    def passes(self, support: int, query: int, progress: float = 1.0) -> Passes:
        """K on the support set, one on the query, and for the exact gradient a second one of each of the K."""
        if progress < self.warm_up:
            return Passes(float(support + query))
        steps = examples_of(self.inner, support)
        return Passes(float(steps * (2 if self.gradient == "exact" else 1) + query))

    def _without_steps(self, likelihood: Likelihood, episode: Episode, variance: Mapping[str, float]) -> Metrics:
        """The gradient of the mean NLL of all rows at θ."""
        reset_task(likelihood)
        nll, gradient, num_tokens = nll_gradient(likelihood, [*episode.support, *episode.query], variance)
        theta = likelihood.parameters(META)
        add_to_grad(theta, {name: gradient.get(name, torch.zeros_like(tensor)) for name, tensor in theta.items()})
        return {"inner_loss": 0.0, "nll": nll, "num_tokens": float(num_tokens), "support_nll": nll}

    def _before(
        self, likelihood: Likelihood, step: Step, v: Tensors, variance: Mapping[str, float]
    ) -> tuple[Tensors, dict[str, float]]:
        """The gradient by φ before the step from that by φ after it, and the step's own by each log σ²."""
        g = step.gradient
        c, q = self.inner.factor(step.nll, g, variance)
        d = self.inner.trust * step.nll
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
        pull = along * q * self.inner.trust / (d + q) ** 2 if q else 0.0
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


def dot(first: Tensor, second: Tensor) -> float:
    """The inner product, summed in float64."""
    return float((first.double() * second.double()).sum())


def norm(tensors: Iterable[Tensor]) -> float:
    """The Euclidean norm of several tensors together."""
    return math.sqrt(sum(dot(tensor, tensor) for tensor in tensors))


@searched(
    trust=LogUniform(0.03, 0.5),
    outer_learning_rate=OUTER_RATE,
    support_weight=Choice((0.1, 0.3, 1.0)),
    scale_mean=LogUniform(0.4, 1.4),
)
def abmll(
    num_steps: int = 5,
    trust: float = 0.3,
    batch_size: int | None = None,
    outer_learning_rate: float = 2e-3,
    variance_rate: float = 25.0,
    log_var_offset: float = 0.0,
    support_weight: float = 1.0,
    gradient: Gradient = "exact",
    warm_up: float = 0.5,
    scale: bool = True,
    scale_mean: float = 0.7,
    scale_std: float = 0.4,
    scale_folds: int = 2,
) -> Method:
    """ABMLL: a Gaussian prior over LoRA parameters, learned over tasks; adapting is a few steps sized by its variances.

    The exact gradient through those steps teaches the prior, at a LoRA's memory; a posterior over one scale of the
    log-probabilities says how sure to be of a task. Each part is an option, measured in docs/log.md.

    trust: the share of the NLL that an inner step may promise to take away.
    variance_rate: how many times faster log-variances learn than means.
    log_var_offset: log σ² of the prior at first; the trust region makes the start matter little.
    support_weight: of the support's own NLL at θ in the outer objective.
    gradient: "first_order" spares half of an outer step's time.
    warm_up: the share of the outer steps that take no inner steps yet, and cost little.
    scale: fit the scale, for two adaptations of half size; scale_mean, scale_std and scale_folds are its own.
    """
    inner = NaturalSteps(num_steps, trust, batch_size, log_var_offset)
    adaptation = GradientAdaptation(inner)
    return Method(
        AdapterSpec("abmll", log_var_offset, space="factors"),
        CrossFittedScale(adaptation, scale_mean, scale_std, scale_folds) if scale else adaptation,
        Amortised(inner, support_weight, gradient, warm_up),
        OuterOptimizer("adamw", outer_learning_rate, "linear", log_var_rate=variance_rate),
    )
