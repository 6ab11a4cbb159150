"""Low-rank conditional Gaussians over a layer's output: moments, samples, divergences, hyper-prior.

Given a layer's input x, each output unit of each token has its own Gaussian. Its mean and its *log-variance* are
both low-rank linear maps of x:

    mean(x)    = s·B_μ A_μ x
    log_var(x) = s·B_v A_v x + c            or, within b nats of c,    c + b·tanh(s·B_v A_v x / b)

Everything is computed in float32 at least, whatever the model's dtype: a standard deviation of e^-10 vanishes in
bfloat16. float64 stays float64.

Source: arXiv 2508.14285, in the output-space form of the published experiments (c = -20, s = α/r, no bound).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

GAMMA_SHAPE, GAMMA_RATE = 1.0, 0.01
"""a and b of the hyper-prior on a precision."""


class Factors(NamedTuple):
    """The parameters of one low-rank conditional Gaussian.

    Attributes:
        mean_A: (r, in_features).
        mean_B: (out_features, r).
        log_var_A: (r, in_features).
        log_var_B: (out_features, r).
        scaling: s, multiplies both products.
        offset: c, the log-variance where B_v = 0 (nats).
        bound: b, how far the log-variance can be from c (nats); None sets no bound.
    """

    mean_A: Tensor
    mean_B: Tensor
    log_var_A: Tensor
    log_var_B: Tensor
    scaling: float
    offset: float
    bound: float | None = None

    def constant(self) -> Factors:
        """The same, without gradient."""
        return self._replace(**{name: getattr(self, name).detach() for name in self._fields[:4]})


class Moments(NamedTuple):
    """mean and log_var of a diagonal Gaussian, both (..., out_features)."""

    mean: Tensor
    log_var: Tensor


def at_least_float32(*tensors: Tensor) -> torch.dtype:
    """The widest dtype among the tensors and float32."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def low_rank(x: Tensor, products: Sequence[tuple[Tensor, Tensor, float]]) -> list[Tensor]:
    """s·B A x for each (A, B, s), with one matrix product for all A: x is read once, not once a product.

    Args:
        x: (..., in_features).
        products: A (r, in_features), B (out_features, r) and s of each.

    Returns:
        (..., out_features) for each.
    """
    dtype = at_least_float32(x, *(A for A, _, _ in products))
    joint_A = torch.cat([A.to(dtype) for A, _, _ in products]) if len(products) > 1 else products[0][0].to(dtype)
    inner = F.linear(x.to(dtype), joint_A).split([A.shape[0] for A, _, _ in products], dim=-1)
    # s multiplies the r inner units, which are few, and not the output
    return [F.linear(s * z, B.to(dtype)) for z, (_, B, s) in zip(inner, products, strict=True)]


def plus_low_rank(base: Tensor, x: Tensor, A: Tensor, B: Tensor, scaling: float) -> Tensor:
    """base + s·B A x, summed where the product is made: the product itself is never written.

    Args:
        base: (..., out_features).
        x: (..., in_features).
        A: (r, in_features).
        B: (out_features, r).
        scaling: s.

    Returns:
        (..., out_features), in float32 at least.
    """
    dtype = at_least_float32(x, A)
    inner = scaling * F.linear(x.to(dtype), A.to(dtype))
    if base.dtype != dtype:
        return base.to(dtype) + F.linear(inner, B.to(dtype))
    total = torch.addmm(base.reshape(-1, base.shape[-1]), inner.reshape(-1, inner.shape[-1]), B.to(dtype).T)
    return total.view(base.shape)


def conditionals(x: Float[Tensor, "*batch in"], *gaussians: Factors) -> list[Moments]:
    """The moments of several Gaussians over the output for the same input x, at the cost of one pass over x."""
    products = []
    for g in gaussians:
        products += [(g.mean_A, g.mean_B, g.scaling), (g.log_var_A, g.log_var_B, g.scaling)]
    outputs = low_rank(x, products)
    return [
        Moments(mean, bounded(log_var, g.bound) + g.offset)
        for g, mean, log_var in zip(gaussians, outputs[::2], outputs[1::2], strict=True)
    ]


def bounded(deviation: Tensor, bound: float | None) -> Tensor:
    """b·tanh(deviation / b), or the deviation itself without a bound.

    Nothing in the objective holds a log-variance back: a divergence whose two Gaussians share their variance falls
    for ever as it grows, and its exponential overflows a few dozen outer steps later.
    """
    return deviation if bound is None else bound * torch.tanh(deviation / bound)


def conditional(
    x: Float[Tensor, "*batch in"],
    mean_A: Float[Tensor, "r in"],
    mean_B: Float[Tensor, "out r"],
    log_var_A: Float[Tensor, "r_v in"],
    log_var_B: Float[Tensor, "out r_v"],
    scaling: float,
    offset: float = -20.0,
    bound: float | None = None,
) -> Moments:
    """The Gaussian over a layer's output given its input: mean s·B_μA_μx and log-variance s·B_vA_vx + offset.

    Args:
        x: (..., in_features).
        mean_A: (r, in_features).
        mean_B: (out_features, r).
        log_var_A: (r_v, in_features).
        log_var_B: (out_features, r_v).
        scaling: s.
        offset: c, in nats.
        bound: see `bounded`.

    Returns:
        Mean and log-variance, each (..., out_features).

    Source: published code of arXiv 2508.14285; the paper's text writes σ = BA + cI over the weights instead.
    """
    return conditionals(x, Factors(mean_A, mean_B, log_var_A, log_var_B, scaling, offset, bound))[0]


def sample(mean: Float[Tensor, "*shape"], log_var: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """One reparameterised draw, mean + exp(log_var/2)·ε with ε ~ N(0, I).

    ε comes from the global generator, because that is the one gradient checkpointing replays in its recomputation.
    """
    return mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)


def kl_divergence(
    mean: Float[Tensor, "*shape"],
    log_var: Float[Tensor, "*shape"],
    prior_mean: Float[Tensor, "*shape"],
    prior_log_var: Float[Tensor, "*shape"],
) -> Float[Tensor, "*shape"]:
    """KL(N(mean, e^log_var) ‖ N(prior_mean, e^prior_log_var)) elementwise, in nats.

        ½ [ expm1(d) - d + ((mean - prior_mean)·e^(-prior_log_var/2))² ],   d = log_var - prior_log_var

    expm1(d) - d instead of e^d - 1 - d keeps its digits where the two are nearly equal, which is where every inner
    loop starts; the square is taken last, so a precision beyond float32's range (log-variance below -88) does not
    overflow before it is multiplied by a small difference.
    """
    d = log_var - prior_log_var
    z = (mean - prior_mean) * torch.exp(-0.5 * prior_log_var)
    return 0.5 * (torch.expm1(d) - d + z.square())


def kl_estimate(
    value: Float[Tensor, "*shape"],
    mean: Float[Tensor, "*shape"],
    log_var: Float[Tensor, "*shape"],
    prior_mean: Float[Tensor, "*shape"],
    prior_log_var: Float[Tensor, "*shape"],
) -> Float[Tensor, "*shape"]:
    """log q(value) - log p(value) elementwise, in nats: the one-sample estimate of KL(q ‖ p) if value ~ q.

    The two constants ½ log 2π cancel and are left out.
    Source: published code of arXiv 2508.14285, which never uses the closed form.
    """
    z = (value - mean) * torch.exp(-0.5 * log_var)
    z_prior = (value - prior_mean) * torch.exp(-0.5 * prior_log_var)
    return 0.5 * (prior_log_var - log_var + z_prior.square() - z.square())


def hyper_prior(
    mean: Float[Tensor, "*shape"],
    log_var: Float[Tensor, "*shape"],
    gamma_shape: float = GAMMA_SHAPE,
    gamma_rate: float = GAMMA_RATE,
    mean_variance: float = 1.0,
) -> Float[Tensor, "*shape"]:
    """-log p(θ) elementwise, in nats: Normal(0, v) on the mean, Gamma(a, b) on the precision e^-log_var.

        -log N(mean; 0, v) - [a log b - log Γ(a) + (a - 1) log τ - b τ],   τ = e^-log_var

    Source: arXiv 2508.14285 (Normal mean, Gamma(1, 0.01) precision). Its code writes the normaliser as a·b; the
    right one, a·log b, differs by a constant and leaves every gradient alone.
    """
    normal = 0.5 * (math.log(2 * math.pi * mean_variance) + mean.square() / mean_variance)
    normaliser = gamma_shape * math.log(gamma_rate) - math.lgamma(gamma_shape)
    gamma = normaliser - (gamma_shape - 1) * log_var - gamma_rate * torch.exp(-log_var)
    return normal - gamma
