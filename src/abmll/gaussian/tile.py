"""A tile of a Gaussian layer's output: its moments from a few inner products a row, its sums, and every gradient.

The posterior's moments are linear in a row's inner products, m = B_μ z_μ and v = B_v z_v + c. The prior's enter
through their differences to them, which are what a KL divergence is made of:

    Δ = m - m_p = (B_μ - B_μp) z_μ + B_μp (z_μ - z_μp),    d = v - v_p = (B_v - B_vp) z_v + B_vp (z_v - z_vp)

so that both are exactly zero where posterior and prior are equal, and keep their digits nearby. In these variables,
with noise ε, σ = e^(v/2), w = e^(d - v) the prior's precision, and per element of the output:

    value         base + m + σε                   ∂m = 1                 ∂v = ½ σε
    closed form   ½ (expm1(d) - d + Δ² w)         ∂Δ = Δ w               ∂d = ½ (expm1(d) + Δ² w)   ∂v = -½ Δ² w
    one sample    ½ (t² w - ε² - d), t = Δ + σε   ∂Δ = t w               ∂d = ½ (t² w - 1)          ∂v = ½ t w (σε - t)
    hyper-prior   h(m - Δ, v - d)                 ∂(m - Δ) = m - Δ       ∂(v - d) = a - 1 - b w

For the prior alone (`prior_only`), with m and v constant, ∂m_p = -∂Δ and ∂v_p = -∂d, and the input is a constant too.

With a bound, v = c + f(u) and d = f(u) - f(u - D) for f(u) = β tanh(u/β), where u and D are linear as v - c and d are
without it. The difference of two tanh is itself a product, which keeps its digits:

    d = β tanh(D/β) (1 - tanh(u/β) tanh((u - D)/β)),    ∂u = f'(u) ∂v + (f'(u) - f'(u - D)) ∂d,    ∂D = f'(u - D) ∂d

Source: arXiv 2508.14285 for what is computed; `gaussian.moments` has the same formulas without tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from abmll.gaussian import moments, noise
from abmll.gaussian.plan import Plan, joint_A

FLAT = 80.0
"""Beyond this, tanh(x/2) is 1 in any type, and e^x soon no number."""


class Maps(NamedTuple):
    """The linear maps of the module's docstring, in the wide type.

    Attributes:
        A: (inner, in_features), all that the input is multiplied with, scaled: [A_μ; A_μ - A_μp; A_v; A_v - A_vp].
        mean: Bᵀ, (r, out_features).
        log_var: likewise.
        mean_difference: (2r, out_features), one on the other. Transposed, because matrix products this thin are several
            times faster along contiguous rows.
        log_var_difference: likewise.
    """

    A: Tensor
    mean: Tensor
    log_var: Tensor
    mean_difference: Tensor
    log_var_difference: Tensor
    has_prior: bool


def maps_of(plan: Plan, factors: Sequence[Tensor]) -> Maps:
    A = joint_A(plan, factors)
    mean_B, log_var_B, *prior = (factor.to(plan.wide) for factor in factors[1::2])
    if not prior:
        mean, log_var = mean_B.T.contiguous(), log_var_B.T.contiguous()
        return Maps(A, mean, log_var, mean, log_var, False)
    p_mean_B, p_log_var_B = prior
    return Maps(
        A,
        mean_B.T.contiguous(),
        log_var_B.T.contiguous(),
        torch.cat([(mean_B - p_mean_B).T, p_mean_B.T]),
        torch.cat([(log_var_B - p_log_var_B).T, p_log_var_B.T]),
        True,
    )


class Tile:
    """A block of rows and columns of the output: its moments, and what forward and backward pass make of them."""

    def __init__(
        self, plan: Plan, maps: Maps, inner: Tensor, counted: Tensor | None, rows: slice, columns: slice
    ) -> None:
        self.plan, self.maps, self.rows, self.columns = plan, maps, rows, columns
        self.r, width = maps.mean.shape
        self.z_mean, self.z_log_var = inner[rows].chunk(2, dim=1)  # each followed by its difference
        self.masked = None if counted is None else ~counted[rows, None]
        self.log_var = self.z_log_var[:, : self.r] @ maps.log_var[:, columns]
        if maps.has_prior:
            self.delta = self.z_mean @ maps.mean_difference[:, columns]
            self.d = self.z_log_var @ maps.log_var_difference[:, columns]
        self.own: Tensor | None = None
        self.prior: Tensor | None = None
        if plan.bound is not None:
            self._bend(plan.bound)
        self.log_var.add_(plan.offset)
        if maps.has_prior:
            self.d.add_(plan.offset_difference)
        if plan.request.sample:
            generator = torch.Generator(inner.device)
            epsilon, copies = torch.empty_like(self.log_var), plan.copies
            if copies is None:
                noise.standard_normal(plan.seed, rows.start, columns.start, epsilon, width, generator)
            else:
                token, total = copies.token[rows], copies.num_tokens
                noise.standard_normal_of(plan.seed, token, total, columns.start, epsilon, width, generator)
            self.noise = (0.5 * self.log_var).exp_().mul_(epsilon)
            self.epsilon = epsilon if plan.request.estimator == "sample" else None

    def _bend(self, bound: float) -> None:
        """From the linear u and D to f(u) and f(u) - f(u - D).

        By tanh x = 2 s - 1 with s = sigmoid(2x), a fifth of tanh's time on a processor; the small tanh(D/β), whose
        digits count, is by expm1.
        """
        own = torch.sigmoid_(self.log_var * (2 / bound))
        if self.maps.has_prior:
            prior = torch.sigmoid_((self.log_var - self.d).mul_(2 / bound))
            less_one = self.d.mul_(2 / bound).clamp_(max=FLAT).expm1_()
            tanh = less_one.div_(less_one + 2)
            # half of 1 - tanh·tanh
            self.d = tanh.mul_(2 * bound).mul_((own + prior).addcmul_(own, prior, value=-2))
            self.prior = prior
        torch.sub(own, 0.5, out=self.log_var).mul_(2 * bound)
        self.own = own

    def mean(self) -> Tensor:
        return self.z_mean[:, : self.r] @ self.maps.mean[:, self.columns]

    def kl(self) -> Tensor:
        if self.plan.request.estimator == "sample":
            assert self.epsilon is not None
            t = (self.d - self.log_var).mul_(0.5).exp_().mul_(self.delta + self.noise)
            return self._filled(t.square_().addcmul_(self.epsilon, self.epsilon, value=-1).sub_(self.d).mul_(0.5))
        scaled = (self.d - self.log_var).mul_(0.5).exp_().mul_(self.delta)  # squared last: see gaussian.moments
        return self._filled(torch.expm1(self.d).sub_(self.d).addcmul_(scaled, scaled).mul_(0.5))

    def hyper(self, mean: Tensor) -> Tensor:
        return self._filled(moments.hyper_prior(mean - self.delta, self.log_var - self.d))

    def gradients(
        self, d_value: Tensor | None, d_kl: Tensor | None, d_hyper: Tensor | None
    ) -> tuple[tuple[Tensor | None, Tensor | None, Tensor | None], ...]:
        """With respect to (mean, Δ, prior's mean) and (log_var, d, prior's log_var); None where there is none.

        The tile's own numbers are lost: what is in work is most of a small layer's memory.
        """
        d_mean, d_delta, d_prior_mean = d_value, None, None
        d_log_var, d_d, d_prior_log_var = None, None, None
        if d_value is not None and self.plan.request.sample:
            noise_again = d_kl is not None and self.plan.request.estimator == "sample"
            d_log_var = (d_value * self.noise if noise_again else self.noise.mul_(d_value)).mul_(0.5)
        if d_kl is not None or d_hyper is not None:
            w = (self.d - self.log_var).exp_()
        if d_kl is not None:
            if self.plan.request.estimator == "sample":
                t = self.delta + self.noise
                d_delta = w.mul(t)
                half = (d_delta * t).mul_(0.5)  # ½ t² w
                d_v = (d_delta * self.noise).mul_(0.5).sub_(half)
                d_d = half.sub_(0.5)
            else:
                d_delta = w.mul(self.delta)
                half = (d_delta * self.delta).mul_(0.5)  # ½ Δ² w
                d_d = self.d.expm1_().mul_(0.5).add_(half)
                d_v = half.neg_()
            d_delta, d_d, d_v = (self._filled(gradient.mul_(d_kl)) for gradient in (d_delta, d_d, d_v))
            if self.plan.request.prior_only:
                d_prior_mean, d_prior_log_var, d_delta, d_d = d_delta.neg_(), d_d.neg_(), None, None
            else:
                d_log_var = _sum(d_log_var, d_v)
        if d_hyper is not None:
            d_prior_mean = _sum(d_prior_mean, self._filled((self.mean() - self.delta).mul_(d_hyper)))
            of_log_var = self._filled(w.mul_(-moments.GAMMA_RATE).add_(moments.GAMMA_SHAPE - 1).mul_(d_hyper))
            d_prior_log_var = _sum(d_prior_log_var, of_log_var)
        if self.plan.bound is not None:
            d_log_var, d_d, d_prior_log_var = self._unbent(d_log_var, d_d, d_prior_log_var)
        return (d_mean, d_delta, d_prior_mean), (d_log_var, d_d, d_prior_log_var)

    def _unbent(
        self, d_log_var: Tensor | None, d_d: Tensor | None, d_prior_log_var: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """From gradients by log_var, d and the prior's log_var to those by what is linear: u, D and u - D."""
        assert self.own is not None
        slope = _slope(self.own)
        d_u = None if d_log_var is None else d_log_var * slope
        if self.prior is None:
            return d_u, None, None
        prior_slope = _slope(self.prior)
        if d_d is not None:
            d_u = _sum(d_u, slope.sub_(prior_slope).mul_(d_d))
            d_d = d_d * prior_slope
        return d_u, d_d, None if d_prior_log_var is None else d_prior_log_var * prior_slope

    def accumulate(
        self,
        d_inner: Tensor,
        d_Bts: Sequence[Tensor | None],
        of_mean: tuple[Tensor | None, Tensor | None, Tensor | None],
        of_log_var: tuple[Tensor | None, Tensor | None, Tensor | None],
    ) -> None:
        """Adds this tile's share to the gradients of the inner products and of every Bᵀ.

        For the prior alone, the prior's product z_p stands in the place of the difference z - z_p: the posterior's
        gradient must not be the small difference of two large sums.
        """
        maps, r, columns = self.maps, self.r, self.columns
        into_mean, into_log_var = d_inner[self.rows].chunk(2, dim=1)
        for k, into, z, B, B_difference, (d_own, d_difference, d_prior) in (
            (0, into_mean, self.z_mean, maps.mean, maps.mean_difference, of_mean),
            (1, into_log_var, self.z_log_var, maps.log_var, maps.log_var_difference, of_log_var),
        ):
            if d_own is not None:
                into[:, :r] += d_own @ B[:, columns].T
            if d_difference is not None:
                into += d_difference @ B_difference[:, columns].T
            if d_prior is not None:
                through = d_prior @ B_difference[r:, columns].T  # of the inner products with the prior's A
                if self.plan.request.prior_only:
                    into[:, r:] += through
                else:
                    into[:, :r] += through
                    into[:, r:] -= through
            if (d_Bt := d_Bts[k]) is not None:
                for d in (d_own, d_difference):
                    if d is not None:
                        d_Bt[:, columns] += z[:, :r].T @ d
            if (d_prior is not None or d_difference is not None) and (d_Bt := d_Bts[k + 2]) is not None:
                z_prior = (z[:, :r] - z[:, r:]).T
                if d_prior is not None:
                    d_Bt[:, columns] += z_prior @ d_prior
                if d_difference is not None:
                    d_Bt[:, columns] -= z_prior @ d_difference

    def _filled(self, values: Tensor) -> Tensor:
        # filled, not multiplied: 0·inf in a padded row would be nan
        return values if self.masked is None else values.masked_fill_(self.masked, 0.0)


def _slope(s: Tensor) -> Tensor:
    """1 - tanh² where tanh = 2 s - 1."""
    return torch.addcmul(s, s, s, value=-1).mul_(4)


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b
