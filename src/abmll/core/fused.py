"""A Gaussian over a layer's output, computed tile by tile: for the backward pass it keeps the input and a few
inner products a row (2r, or 4r with a prior), and draws and computes everything else again.

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

Source: arXiv 2508.14285 for what is computed; `core.gaussian` has the same formulas without tiles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from abmll.core import gaussian, noise
from abmll.core.types import Estimator

BLOCKS_PER_TILE = 1
"""Height in blocks of noise of a tile as wide as a block; narrower ones are higher. It changes the speed and, but for
rounding, no result."""
LEAST_TILES = 8
"""Into how many tiles a narrow output is cut at least, if it has so many blocks."""
FLAT = 80.0
"""Beyond this, tanh(x/2) is 1 in any type, and e^x soon no number."""
CONVERTED_ROWS = 256
"""How many rows of a half-precision input are in the wide type at a time."""


class Asked(NamedTuple):
    """What a pass asks of a layer's Gaussian: see `layer_output.gaussian_output`.

    hyper_prior and prior_only are False without a prior. copies: which rows draw the same noise.
    """

    sample: bool
    estimator: Estimator
    hyper_prior: bool
    prior_only: bool
    copies: noise.Copies | None = None


class Plan(NamedTuple):
    """How it is computed; wide is the type of the arithmetic, dtype that of the value."""

    asked: Asked
    scalings: tuple[float, ...]
    offset: float
    offset_difference: float
    bound: float | None
    wide: torch.dtype
    dtype: torch.dtype
    seed: int


def fused_output(
    x: Tensor,
    base: Tensor,
    posterior: gaussian.Factors,
    prior: gaussian.Factors | None,
    counted: Tensor | None,
    dtype: torch.dtype,
    asked: Asked,
) -> tuple[Tensor, Tensor, Tensor]:
    """(value, kl, hyper) of `layer_output.gaussian_output` for x (rows, in_features), base (rows, out_features).

    prior: of the posterior's rank and bound. Differentiable once.
    """
    plan, factors = plan_of(x, base, posterior, prior, dtype, asked)
    return _FusedOutput.apply(plan, x, base, counted, *factors)


def plan_of(
    x: Tensor,
    base: Tensor,
    posterior: gaussian.Factors,
    prior: gaussian.Factors | None,
    dtype: torch.dtype,
    asked: Asked,
) -> tuple[Plan, list[Tensor]]:
    """What is asked for, with a seed from the global generator if it takes noise, and the four or eight factors."""
    gaussians = [posterior] if prior is None else [posterior, prior]
    factors = [tensor for g in gaussians for tensor in g[:4]]
    plan = Plan(
        asked,
        tuple(g.scaling for g in gaussians),
        posterior.offset,
        0.0 if prior is None else posterior.offset - prior.offset,
        posterior.bound,
        gaussian.at_least_float32(x, base, *factors),
        dtype,
        noise.draw_seed() if asked.sample else 0,
    )
    return plan, factors


class _FusedOutput(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, plan: Plan, x: Tensor, base: Tensor, counted: Tensor | None, *factors: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        maps = _maps(plan, factors)
        inner = times(x, maps.A.T)
        value = torch.empty_like(base, dtype=plan.dtype)
        kl, hyper = (torch.zeros((), dtype=torch.float64, device=base.device) for _ in range(2))
        for rows, columns in _tiles(len(base), base.shape[1], base.device):
            tile = _Tile(plan, maps, inner, counted, rows, columns)
            tile.own = tile.prior = None  # for gradients alone
            mean = tile.mean()
            if maps.has_prior:
                kl += tile.kl().sum()
                if plan.asked.hyper_prior:
                    hyper += tile.hyper(mean).sum()
            if plan.asked.sample:
                mean += tile.noise
            value[rows, columns] = mean.add_(base[rows, columns])
            del tile, mean  # before the next one is made
        ctx.save_for_backward(x, inner, counted, *factors)
        ctx.plan, ctx.base_dtype = plan, base.dtype
        mark_outputs(ctx, value)
        return value, kl.to(plan.wide), hyper.to(plan.wide)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_value: Tensor | None, d_kl: Tensor | None, d_hyper: Tensor | None) -> tuple[Any, ...]:
        x, inner, counted, *factors = ctx.saved_tensors
        plan, maps = ctx.plan, _maps(ctx.plan, factors)
        needs = ctx.needs_input_grad[4:]
        d_kl, d_hyper = asked_for(plan, factors, d_kl, d_hyper)
        if d_value is None and d_kl is None and d_hyper is None:
            return (None,) * (4 + len(factors))
        d_inner = torch.zeros_like(inner)
        d_Bts = [
            torch.zeros_like(B.T, dtype=plan.wide, memory_format=torch.contiguous_format) if need else None
            for B, need in zip(factors[1::2], needs[1::2], strict=True)
        ]
        for rows, columns in _tiles(len(x), maps.mean.shape[1], x.device):
            d_here = None if d_value is None else d_value[rows, columns].to(plan.wide)
            tile = _Tile(plan, maps, inner, counted, rows, columns)
            tile.accumulate(d_inner, d_Bts, *tile.gradients(d_here, d_kl, d_hyper))
            del tile, d_here  # before the next one is made
        d_Bs = [None if d_Bt is None else d_Bt.T for d_Bt in d_Bts]
        return gradients_of_inputs(ctx, x, factors, maps.A, d_value, d_inner, d_Bs)


def mark_outputs(ctx: Any, value: Tensor) -> None:
    """What autograd is to know of the outputs; ctx: as in `gradients_of_inputs`, with its plan."""
    ctx.set_materialize_grads(False)
    _, needs_x, needs_base, _, *needs = ctx.needs_input_grad
    if ctx.plan.asked.prior_only and not (needs_x or needs_base or any(needs[:4])):
        ctx.mark_non_differentiable(value)


def asked_for(
    plan: Plan, factors: Sequence[Tensor], d_kl: Tensor | None, d_hyper: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients by kl and hyper, None for one that was not computed."""
    has_prior = len(factors) == 8
    return d_kl if has_prior else None, d_hyper if plan.asked.hyper_prior else None


def gradients_of_inputs(
    ctx: Any,
    x: Tensor,
    factors: Sequence[Tensor],
    joint_A: Tensor,
    d_value: Tensor | None,
    d_inner: Tensor,
    d_Bs: Sequence[Tensor | None] | Tensor,
) -> tuple[Any, ...]:
    """What a backward pass returns for (plan, x, base, counted, *factors), from the gradients of the inner products
    (rows, inner) and of every B.

    ctx: of an autograd function with these inputs, which keeps plan and base_dtype.
    """
    _, needs_x, needs_base, _, *needs = ctx.needs_input_grad
    d_factors: list[Tensor | None] = [None] * len(factors)
    if any(needs[::2]):
        d_factors[::2] = _split_A(ctx.plan, _transposed_times(d_inner, x))
    d_factors[1::2] = d_Bs
    d_factors = [
        None if d is None or not need else d.to(factor.dtype)
        for d, need, factor in zip(d_factors, needs, factors, strict=True)
    ]
    d_x = None
    if needs_x and ctx.plan.asked.prior_only:
        own, _, own_log_var, _ = d_inner.chunk(4, dim=1)
        A, _, A_log_var, _ = joint_A.chunk(4)
        d_x = (own @ A).addmm_(own_log_var, A_log_var).to(x.dtype)
    elif needs_x:
        d_x = (d_inner @ joint_A).to(x.dtype)
    d_base = d_value.to(ctx.base_dtype) if needs_base and d_value is not None else None
    return None, d_x, d_base, None, *d_factors


class _Maps(NamedTuple):
    """The linear maps of the module's docstring, in the wide type.

    A: (inner, in_features), all that the input is multiplied with, scaled: [A_μ; A_μ - A_μp; A_v; A_v - A_vp].
    mean, log_var: Bᵀ, (r, out_features). mean_difference, log_var_difference: (2r, out_features), one on the other.
    Transposed, because matrix products this thin are several times faster along contiguous rows.
    """

    A: Tensor
    mean: Tensor
    log_var: Tensor
    mean_difference: Tensor
    log_var_difference: Tensor
    has_prior: bool


def _maps(plan: Plan, factors: Sequence[Tensor]) -> _Maps:
    A = joint_A(plan, factors)
    mean_B, log_var_B, *prior = (factor.to(plan.wide) for factor in factors[1::2])
    if not prior:
        mean, log_var = mean_B.T.contiguous(), log_var_B.T.contiguous()
        return _Maps(A, mean, log_var, mean, log_var, False)
    p_mean_B, p_log_var_B = prior
    return _Maps(
        A,
        mean_B.T.contiguous(),
        log_var_B.T.contiguous(),
        torch.cat([(mean_B - p_mean_B).T, p_mean_B.T]),
        torch.cat([(log_var_B - p_log_var_B).T, p_log_var_B.T]),
        True,
    )


def joint_A(plan: Plan, factors: Sequence[Tensor]) -> Tensor:
    """(inner, in_features), all that the input is multiplied with: see `_Maps.A`; without a prior [A_μ; A_v]."""
    mean_A, log_var_A, *prior = (factor.to(plan.wide) for factor in factors[::2])
    s, *others = plan.scalings
    if not prior:
        return s * torch.cat([mean_A, log_var_A])
    p_mean_A, p_log_var_A = prior

    def difference(A: Tensor, p_A: Tensor) -> Tensor:
        # scaled last: of nearly equal numbers the difference is exact, that of their rounded multiples is not
        return s * (A - p_A) if others[0] == s else s * A - others[0] * p_A

    return torch.cat([s * mean_A, difference(mean_A, p_mean_A), s * log_var_A, difference(log_var_A, p_log_var_A)])


def _split_A(plan: Plan, d_A: Tensor) -> list[Tensor]:
    """From the gradient of `_Maps.A` to those of mean_A and log_var_A of the posterior (and the prior)."""
    s, *others = plan.scalings
    if not others:
        return [s * part for part in d_A.chunk(2)]
    mean, mean_difference, log_var, log_var_difference = d_A.chunk(4)
    if plan.asked.prior_only:  # the second of each is that of the prior's own product
        return [s * mean, s * log_var, others[0] * mean_difference, others[0] * log_var_difference]
    posterior = [s * (mean + mean_difference), s * (log_var + log_var_difference)]
    return [*posterior, -others[0] * mean_difference, -others[0] * log_var_difference]


class _Tile:
    """A block of rows and columns of the output: its moments, and what forward and backward pass make of them."""

    def __init__(
        self, plan: Plan, maps: _Maps, inner: Tensor, counted: Tensor | None, rows: slice, columns: slice
    ) -> None:
        self.plan, self.maps, self.rows, self.columns = plan, maps, rows, columns
        self.r, width = maps.mean.shape
        self.z_mean, self.z_log_var = inner[rows].chunk(2, dim=1)  # each followed by its difference
        self.skipped = None if counted is None else ~counted[rows, None]
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
        if plan.asked.sample:
            generator = torch.Generator(inner.device)
            epsilon, copies = torch.empty_like(self.log_var), plan.asked.copies
            if copies is None:
                noise.standard_normal(plan.seed, rows.start, columns.start, epsilon, width, generator)
            else:
                token, total = copies.token[rows], copies.num_tokens
                noise.standard_normal_of(plan.seed, token, total, columns.start, epsilon, width, generator)
            self.noise = (0.5 * self.log_var).exp_().mul_(epsilon)
            self.epsilon = epsilon if plan.asked.estimator == "sample" else None

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
        if self.plan.asked.estimator == "sample":
            assert self.epsilon is not None
            t = (self.d - self.log_var).mul_(0.5).exp_().mul_(self.delta + self.noise)
            return self._counted(t.square_().addcmul_(self.epsilon, self.epsilon, value=-1).sub_(self.d).mul_(0.5))
        scaled = (self.d - self.log_var).mul_(0.5).exp_().mul_(self.delta)  # squared last: see core.gaussian
        return self._counted(torch.expm1(self.d).sub_(self.d).addcmul_(scaled, scaled).mul_(0.5))

    def hyper(self, mean: Tensor) -> Tensor:
        return self._counted(gaussian.hyper_prior(mean - self.delta, self.log_var - self.d))

    def gradients(
        self, d_value: Tensor | None, d_kl: Tensor | None, d_hyper: Tensor | None
    ) -> tuple[tuple[Tensor | None, Tensor | None, Tensor | None], ...]:
        """With respect to (mean, Δ, prior's mean) and (log_var, d, prior's log_var); None where there is none.

        The tile's own numbers are lost: what is in work is most of a small layer's memory.
        """
        d_mean, d_delta, d_prior_mean = d_value, None, None
        d_log_var, d_d, d_prior_log_var = None, None, None
        if d_value is not None and self.plan.asked.sample:
            noise_again = d_kl is not None and self.plan.asked.estimator == "sample"
            d_log_var = (d_value * self.noise if noise_again else self.noise.mul_(d_value)).mul_(0.5)
        if d_kl is not None or d_hyper is not None:
            w = (self.d - self.log_var).exp_()
        if d_kl is not None:
            if self.plan.asked.estimator == "sample":
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
            d_delta, d_d, d_v = (self._counted(gradient.mul_(d_kl)) for gradient in (d_delta, d_d, d_v))
            if self.plan.asked.prior_only:
                d_prior_mean, d_prior_log_var, d_delta, d_d = d_delta.neg_(), d_d.neg_(), None, None
            else:
                d_log_var = _sum(d_log_var, d_v)
        if d_hyper is not None:
            d_prior_mean = _sum(d_prior_mean, self._counted((self.mean() - self.delta).mul_(d_hyper)))
            of_log_var = self._counted(w.mul_(-gaussian.GAMMA_RATE).add_(gaussian.GAMMA_SHAPE - 1).mul_(d_hyper))
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
                if self.plan.asked.prior_only:
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

    def _counted(self, values: Tensor) -> Tensor:
        # filled, not multiplied: 0·inf in a padded row would be nan
        return values if self.skipped is None else values.masked_fill_(self.skipped, 0.0)


def _tiles(rows: int, columns: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
    block = noise.block_of(device)
    # a narrow output's tiles are higher, but several: what is in work is to be small beside what is there anyway
    blocks = max(1, min(block.columns // columns, rows // (LEAST_TILES * block.rows)))
    height = block.rows * BLOCKS_PER_TILE * blocks
    for row in range(0, rows, height):
        for column in range(0, columns, block.columns):
            yield slice(row, min(row + height, rows)), slice(column, min(column + block.columns, columns))


def times(x: Tensor, A: Tensor) -> Tensor:
    """x A in A's type, by pieces if x is of another: a copy of the input in float32 may be twice its size."""
    if x.dtype == A.dtype:
        return x @ A
    return torch.cat([piece.to(A.dtype) @ A for piece in x.split(CONVERTED_ROWS)])


def _transposed_times(d: Tensor, x: Tensor) -> Tensor:
    """dᵀ x in d's type, by pieces likewise."""
    if x.dtype == d.dtype:
        return d.T @ x
    total = d.new_zeros(d.shape[1], x.shape[1])
    for d_piece, piece in zip(d.split(CONVERTED_ROWS), x.split(CONVERTED_ROWS), strict=True):
        total += d_piece.T @ piece.to(d.dtype)
    return total


def _slope(s: Tensor) -> Tensor:
    """1 - tanh² where tanh = 2 s - 1."""
    return torch.addcmul(s, s, s, value=-1).mul_(4)


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b
