"""A Gaussian over a layer's output, computed tile by tile: for the backward pass it keeps the input and a few
inner products a row (2r, or 4r with a prior), and draws and computes everything else again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from abmll.core.types import PassRequest
from abmll.gaussian import moments, noise
from abmll.gaussian.plan import Plan, gradients_of_inputs, mark_outputs, plan_of, requested_gradients, times
from abmll.gaussian.tile import Tile, maps_of

BLOCKS_PER_TILE = 1
"""Height in blocks of noise of a tile as wide as a block; narrower ones are higher. It changes the speed and, but for
rounding, no result."""
LEAST_TILES = 8
"""Into how many tiles a narrow output is cut at least, if it has so many blocks."""


def fused_output(
    x: Tensor,
    base: Tensor,
    posterior: moments.Factors,
    prior: moments.Factors | None,
    counted: Tensor | None,
    dtype: torch.dtype,
    request: PassRequest,
    copies: noise.Copies | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """(value, kl, hyper) of `layer_output.gaussian_output` for x (rows, in_features), base (rows, out_features).

    Args:
        prior: of the posterior's rank and bound. Differentiable once.
    """
    plan, factors = plan_of(x, base, posterior, prior, dtype, request, copies)
    output: tuple[Tensor, Tensor, Tensor] = _FusedOutput.apply(plan, x, base, counted, *factors)
    return output


class _FusedOutput(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, plan: Plan, x: Tensor, base: Tensor, counted: Tensor | None, *factors: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        maps = maps_of(plan, factors)
        inner = times(x, maps.A.T)
        value = torch.empty_like(base, dtype=plan.dtype)
        kl, hyper = (torch.zeros((), dtype=torch.float64, device=base.device) for _ in range(2))
        for rows, columns in _tiles(len(base), base.shape[1], base.device):
            tile = Tile(plan, maps, inner, counted, rows, columns)
            tile.own = tile.prior = None  # for gradients alone
            mean = tile.mean()
            if maps.has_prior:
                kl += tile.kl().sum()
                if plan.request.hyper_prior:
                    hyper += tile.hyper(mean).sum()
            if plan.request.sample:
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
        plan, maps = ctx.plan, maps_of(ctx.plan, factors)
        needs = ctx.needs_input_grad[4:]
        d_kl, d_hyper = requested_gradients(plan, factors, d_kl, d_hyper)
        if d_value is None and d_kl is None and d_hyper is None:
            return (None,) * (4 + len(factors))
        d_inner = torch.zeros_like(inner)
        d_Bts = [
            torch.zeros_like(B.T, dtype=plan.wide, memory_format=torch.contiguous_format) if need else None
            for B, need in zip(factors[1::2], needs[1::2], strict=True)
        ]
        for rows, columns in _tiles(len(x), maps.mean.shape[1], x.device):
            d_here = None if d_value is None else d_value[rows, columns].to(plan.wide)
            tile = Tile(plan, maps, inner, counted, rows, columns)
            tile.accumulate(d_inner, d_Bts, *tile.gradients(d_here, d_kl, d_hyper))
            del tile, d_here  # before the next one is made
        d_Bs = [None if d_Bt is None else d_Bt.T for d_Bt in d_Bts]
        return gradients_of_inputs(ctx, x, factors, maps.A, d_value, d_inner, d_Bs)


def _tiles(rows: int, columns: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
    block = noise.block_of(device)
    # a narrow output's tiles are higher, but several: what is in work is to be small beside what is there anyway
    blocks = max(1, min(block.columns // columns, rows // (LEAST_TILES * block.rows)))
    height = block.rows * BLOCKS_PER_TILE * blocks
    for row in range(0, rows, height):
        for column in range(0, columns, block.columns):
            yield slice(row, min(row + height, rows)), slice(column, min(column + block.columns, columns))
