"""A Gaussian over the weights of a layer, mean and standard deviation both low-rank, never formed as a whole.

    W = M + σ∘ε,   M = s·B_μ A_μ,   σ = s·B_σ A_σ + c·11ᵀ,   ε elementwise with mean 0 and variance 1

σ may change its sign, which the Gaussian does not see. A sample takes ε = u vᵀ with random signs u, v: elements of ε
are uncorrelated with variance 1, so the first and second moments of W (and those of W x given x) are exactly the
Gaussian's, and W is a matrix of rank 2r + 1:

    W = [s·B_μ | s·u∘B_σ | c·u] [A_μ; A_σ∘v; vᵀ]

Source: arXiv 2508.14285, equations for σ and c; random signs after Wen et al. 2018 (Flipout), arXiv 1803.04386, with
the one sample per example that keeps it a LoRA.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from abmll.gaussian import moments
from abmll.gaussian.layer_output import twice_differentiable
from abmll.gaussian.noise import Copies

TILE, LEAST_TILES = 2**16, 8
"""Weights in a tile of the divergence, at least one row; and into how many a small weight is cut at least."""
LEAST_EXCESS = -0.99
"""(σ/σ_p)² - 1 from which downwards its own rounding costs its logarithm digits: to -1, of which there is none."""


def offset_std(offset: float) -> float:
    """c, the standard deviation where B_σ A_σ = 0, from the log-variance there."""
    return math.exp(0.5 * offset)


def dense(g: moments.Factors) -> moments.Moments:
    """Mean and log-variance of every weight, (out_features, in_features): for small layers and for tests."""
    std = g.scaling * (g.log_var_B @ g.log_var_A) + offset_std(g.offset)
    return moments.Moments(g.scaling * (g.mean_B @ g.mean_A), std.square().log())


class Lora(NamedTuple):
    """A: (..., 2r + 1, in_features), B: (..., out_features, 2r + 1); the weight is B A."""

    A: Tensor
    B: Tensor


def as_lora(g: moments.Factors, signs_in: Tensor, signs_out: Tensor) -> Lora:
    """The sample of these signs, (..., in_features) and (..., out_features); leading axes are independent samples."""
    dtype = moments.at_least_float32(g.mean_A)
    v, u = signs_in.to(dtype)[..., None, :], signs_out.to(dtype)[..., None]
    mean_A, mean_B, std_A, std_B = (factor.to(dtype) for factor in g[:4])
    lead = signs_in.shape[:-1]
    A = torch.cat([mean_A.expand(*lead, *mean_A.shape), std_A * v, v], -2)
    B = torch.cat(
        [(g.scaling * mean_B).expand(*lead, *mean_B.shape), g.scaling * std_B * u, offset_std(g.offset) * u], -1
    )
    return Lora(A, B)


def draw_signs(*shape: int, device: torch.device) -> Tensor:
    """Independent fair signs ±1 as int8, from the global generator, which gradient checkpointing replays."""
    return torch.randint(2, shape, device=device, dtype=torch.int8) * 2 - 1


def sampled_output(
    x: Tensor, base: Tensor, g: moments.Factors, dtype: torch.dtype, copies: Copies | None = None
) -> Tensor:
    """base + W x with one W for each example, in `dtype`.

    Keeps for the backward pass x, 2r + 1 numbers a token, and the signs.

    Args:
        x: (examples, tokens, in_features).
        base: (examples, tokens, out_features).
        g: the Gaussian's factors; log_var_A and log_var_B are those of the standard deviation.
        dtype: of the value.
        copies: which rows are the same example; None: each its own.

    Returns:
        (examples, tokens, out_features).
    """
    examples = len(x) if copies is None else copies.num_rows
    signs_in = draw_signs(examples, x.shape[-1], device=x.device)
    signs_out = draw_signs(examples, base.shape[-1], device=x.device)
    if copies is not None:
        signs_in, signs_out = signs_in[copies.row], signs_out[copies.row]
    if twice_differentiable():
        A, B = as_lora(g, signs_in, signs_out)
        return (base.to(A.dtype) + x.to(A.dtype) @ A.mT @ B.mT).to(dtype)
    output: Tensor = _SampledOutput.apply(x, base, signs_in, signs_out, g.scaling, g.offset, dtype, *g[:4])
    return output


def _gaussian(factors: Sequence[Tensor], scaling: float, offset: float) -> moments.Factors:
    mean_A, mean_B, std_A, std_B = factors
    return moments.Factors(mean_A, mean_B, std_A, std_B, scaling, offset)


class _SampledOutput(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        base: Tensor,
        signs_in: Tensor,
        signs_out: Tensor,
        scaling: float,
        offset: float,
        dtype: torch.dtype,
        *factors: Tensor,
    ) -> Tensor:
        A, B = as_lora(_gaussian(factors, scaling, offset), signs_in, signs_out)
        inner = x.to(A.dtype) @ A.mT
        ctx.save_for_backward(x, inner, signs_in, signs_out, *factors)
        ctx.scaling, ctx.offset, ctx.base_dtype = scaling, offset, base.dtype
        return torch.baddbmm(base.to(A.dtype), inner, B.mT).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_value: Tensor) -> tuple[Tensor | None, ...]:
        x, inner, signs_in, signs_out, *factors = ctx.saved_tensors
        A, B = as_lora(_gaussian(factors, ctx.scaling, ctx.offset), signs_in, signs_out)
        needs_x, needs_base = ctx.needs_input_grad[:2]
        r = len(factors[0])
        d_wide = d_value.to(A.dtype)
        d_inner = d_wide @ B
        d_A, d_B = d_inner.mT @ x.to(A.dtype), (inner.mT @ d_wide).mul_(ctx.scaling)  # d_B is transposed
        d_std_A = (d_A[:, r : 2 * r] * signs_in[:, None]).sum(0)
        d_std_B = (d_B[:, r : 2 * r] * signs_out[:, None]).sum(0)
        gradients = d_A[:, :r].sum(0), d_B[:, :r].sum(0).T, d_std_A, d_std_B.T
        return (
            (d_inner @ A).to(x.dtype) if needs_x else None,
            d_value.to(ctx.base_dtype) if needs_base else None,
            *[None] * 5,
            *(d.to(factor.dtype) for d, factor in zip(gradients, factors, strict=True)),
        )


def divergence(
    posterior: moments.Factors, prior: moments.Factors, *, hyper_prior: bool = False, rows: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """KL(posterior ‖ prior) and, if asked for, -log p of the prior's moments: sums over all weights, in nats.

        ½ (e - log1p(e) + (Δ/σ_p)²),   e = (σ² - σ_p²)/σ_p²

    Taken over tiles of rows of the weight, with their gradients in the same sweep: nothing of the weight's size is
    kept or formed.

    Args:
        posterior: its factors.
        prior: its factors.
        hyper_prior: whether to return the second sum.
        rows: take this many random output units instead of all, and scale up, which is unbiased.

    Returns:
        Both sums, in nats; None for one that was not asked for.
    """
    out_features = len(posterior.mean_B)
    chosen, share = None, 1.0
    if rows is not None and rows < out_features:
        chosen = torch.randperm(out_features)[:rows].sort().values.to(posterior.mean_B.device)
        share = out_features / rows
        posterior, prior = (_rows(g, chosen) for g in (posterior, prior))
    if twice_differentiable():
        q, p = dense(posterior), dense(prior)
        kl, hyper = moments.kl_divergence(*q, *p).sum(), moments.hyper_prior(*p).sum()
    else:
        kl, hyper = _Divergence.apply(
            (posterior.scaling, prior.scaling),
            (posterior.offset, prior.offset),
            hyper_prior,
            *posterior[:4],
            *prior[:4],
        )
    return share * kl, share * hyper if hyper_prior else None


def _rows(g: moments.Factors, chosen: Tensor) -> moments.Factors:
    return g._replace(mean_B=g.mean_B[chosen], log_var_B=g.log_var_B[chosen])


class _Divergence(torch.autograd.Function):
    """Its outputs are scalars, so their gradients are known in the forward pass up to a factor each."""

    @staticmethod
    def forward(
        ctx: Any,
        scalings: tuple[float, float],
        offsets: tuple[float, float],
        hyper_prior: bool,
        *factors: Tensor,
    ) -> tuple[Tensor, Tensor]:
        dtype = moments.at_least_float32(*factors)
        ctx.dtypes = [factor.dtype for factor in factors]
        wide = [factor.to(dtype) for factor in factors]
        needs = ctx.needs_input_grad[3:]
        of_kl = [torch.zeros_like(factor) if need else None for factor, need in zip(wide, needs, strict=True)]
        of_hyper = [
            torch.zeros_like(factor) if need and hyper_prior and i >= 4 else None
            for i, (factor, need) in enumerate(zip(wide, needs, strict=True))
        ]
        kl, hyper = (torch.zeros((), dtype=torch.float64, device=wide[0].device) for _ in range(2))
        rows_in_all, columns = len(wide[1]), wide[0].shape[1]
        height = max(1, min(TILE // columns, rows_in_all // LEAST_TILES))
        for start in range(0, rows_in_all, height):
            rows = slice(start, start + height)
            tile = _WeightTile(scalings, offsets, wide, rows)
            kl += tile.kl().sum()
            if any(d is not None for d in of_kl):
                tile.accumulate(of_kl, tile.kl_gradients())
            if hyper_prior:
                hyper += tile.hyper().sum()
                if any(d is not None for d in of_hyper):
                    tile.accumulate(of_hyper, tile.hyper_gradients())
            del tile  # before the next one is made
        ctx.places = [[i for i, d in enumerate(ds) if d is not None] for ds in (of_kl, of_hyper)]
        ctx.save_for_backward(*(d for ds in (of_kl, of_hyper) for d in ds if d is not None))
        return kl.to(dtype), hyper.to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_kl: Tensor, d_hyper: Tensor) -> tuple[Tensor | None, ...]:
        total: list[Tensor | None] = [None] * len(ctx.dtypes)
        places = [(i, d) for ds, d in zip(ctx.places, (d_kl, d_hyper), strict=True) for i in ds]
        for (i, d), gradient in zip(places, ctx.saved_tensors, strict=True):
            share = d * gradient
            total[i] = share if (so_far := total[i]) is None else so_far + share
        return (
            None,
            None,
            None,
            *(None if d is None else d.to(dtype) for d, dtype in zip(total, ctx.dtypes, strict=True)),
        )


class _WeightTile:
    """Some rows of the weight: moments, their sums' terms, and gradients with respect to (M, σ, M_p, σ_p)."""

    def __init__(
        self, scalings: tuple[float, float], offsets: tuple[float, float], factors: list[Tensor], rows: slice
    ) -> None:
        self.scalings, self.factors, self.rows = scalings, factors, rows
        c, c_p = (offset_std(offset) for offset in offsets)
        mean_A, mean_B, std_A, std_B, p_mean_A, p_mean_B, p_std_A, p_std_B = factors
        self.prior_mean = scalings[1] * p_mean_B[rows] @ p_mean_A
        self.prior_std = (scalings[1] * p_std_B[rows] @ p_std_A).add_(c_p)
        self.std = (scalings[0] * std_B[rows] @ std_A).add_(c)
        self.delta = self._difference(mean_A, mean_B, p_mean_A, p_mean_B)
        std_difference = self._difference(std_A, std_B, p_std_A, p_std_B).add_(c - c_p)
        self.z = self.delta / self.prior_std
        self.excess = std_difference.mul_((self.std + self.prior_std).div_(self.prior_std)).div_(self.prior_std)

    def _difference(self, A: Tensor, B: Tensor, p_A: Tensor, p_B: Tensor) -> Tensor:
        """s·B A - s_p·B_p A_p; exactly zero for equals, and exact nearby, if ranks and scalings are equal."""
        (s, s_p), rows = self.scalings, self.rows
        if s != s_p or len(A) != len(p_A):
            return s * B[rows] @ A - s_p * p_B[rows] @ p_A
        return s * torch.addmm((B[rows] - p_B[rows]) @ A, p_B[rows], A - p_A)

    def kl(self) -> Tensor:
        log_ratio = torch.log1p(self.excess)
        if self.excess.amin() < LEAST_EXCESS:  # hardly ever: a second logarithm would cost a quarter of the sweep
            far = (self.std / self.prior_std).abs_().log_().mul_(2.0)
            log_ratio = torch.where(self.excess < LEAST_EXCESS, far, log_ratio)
        return (self.excess - log_ratio).addcmul_(self.z, self.z).mul_(0.5)

    def kl_gradients(self) -> tuple[Tensor | None, ...]:
        d_mean = self.z / self.prior_std
        d_prior_std = torch.addcmul(self.excess, self.z, self.z).div_(self.prior_std).neg_()
        return d_mean, self.excess / self.std, -d_mean, d_prior_std

    def hyper(self) -> Tensor:
        return moments.hyper_prior(self.prior_mean, self.prior_std.square().log())

    def hyper_gradients(self) -> tuple[Tensor | None, ...]:
        inverse = self.prior_std.reciprocal()
        d_prior_std = (inverse.square() * (-2 * moments.GAMMA_RATE)).add_(2 * (moments.GAMMA_SHAPE - 1)).mul_(inverse)
        return None, None, self.prior_mean, d_prior_std

    def accumulate(self, into: list[Tensor | None], gradients: tuple[Tensor | None, ...]) -> None:
        for i, gradient in enumerate(gradients):
            if gradient is None:
                continue
            A, B = self.factors[2 * i : 2 * i + 2]
            s = self.scalings[i // 2]
            if (d_A := into[2 * i]) is not None:
                d_A.addmm_(B[self.rows].T, gradient, alpha=s)
            if (d_B := into[2 * i + 1]) is not None:
                d_B[self.rows].addmm_(gradient, A.T, alpha=s)
