"""A Gaussian over a layer's output in two Triton kernels, one forward and one backward: `gaussian.fused` for GPUs.

It keeps the same for the backward pass, the input and 2r or 4r numbers a row, and computes everything else again in
registers. The products with A, a small share of the work, are ordinary matrix products.

Its noise is Philox's, counted by an element's row and column, so that it is the same for every size of tile, forward
and backward; it is other noise than `gaussian.noise`'s for the same seed.

Triton comes with PyTorch's CUDA builds; this module imports it only when a kernel runs.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from abmll.core.errors import AbmllError
from abmll.core.types import PassRequest
from abmll.gaussian import moments, noise
from abmll.gaussian.plan import Plan, gradients_of_inputs, joint_A, mark_outputs, plan_of, requested_gradients, times

BLOCK_ROWS, BLOCK_COLUMNS = 32, 64
"""Of a tile: powers of 2, at least 16. They change the speed and, but for rounding, no result. These take 72 KB of a
multiprocessor's shared memory in the backward pass, which the smallest recent GPUs have."""
NUM_WARPS = 8
PROGRAMS = 512
"""How many programs the backward pass starts at least, if there are so many tiles. More keep a larger GPU busy and take
more memory for their parts of B's gradient."""


@cache
def installed() -> bool:
    """Whether triton can be imported, as far as can be told without importing it."""
    spec = importlib.util.find_spec("triton")
    return spec is not None and spec.origin is not None  # without an origin it is some folder of that name


def suits(base: Tensor, dtype: torch.dtype) -> bool:
    """Whether the kernels are the ones to take for this output by themselves; dtype: of the arithmetic."""
    return base.is_cuda and dtype == torch.float32 and installed()


def triton_output(
    x: Tensor,
    base: Tensor,
    posterior: moments.Factors,
    prior: moments.Factors | None,
    counted: Tensor | None,
    dtype: torch.dtype,
    request: PassRequest,
    copies: noise.Copies | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `fused.fused_output`, with other noise.

    Raises:
        AbmllError: Without triton, on a device that is no GPU (unless TRITON_INTERPRET=1 was set before triton was
            imported), and for float64 on a GPU.
    """
    plan, factors = plan_of(x, base, posterior, prior, dtype, request, copies)
    _require(base, plan)
    output: tuple[Tensor, Tensor, Tensor] = _TritonOutput.apply(plan, x, base, counted, *factors)
    return output


def _require(base: Tensor, plan: Plan) -> None:
    if not installed():
        raise AbmllError(
            'implementation "triton" was asked for, but triton is not installed. Install a CUDA build of PyTorch, '
            'which brings it along, or take implementation "fused", which needs nothing.'
        )
    from triton.runtime.jit import JITFunction

    from abmll.gaussian import triton_kernels

    if not isinstance(triton_kernels.forward, JITFunction):
        return  # interpreted: takes any device and type
    if not base.is_cuda:
        raise AbmllError(
            f'implementation "triton" was asked for, but the layer is on the device {str(base.device)!r} and its '
            'kernels run on a GPU. Move the model to one, or take implementation "auto" or "fused".'
        )
    if plan.wide != torch.float32:
        raise AbmllError(
            f'implementation "triton" computes in float32, but the layer asks for {plan.wide}. Take implementation '
            '"fused", or a float32, bfloat16 or float16 model.'
        )


class _TritonOutput(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, plan: Plan, x: Tensor, base: Tensor, counted: Tensor | None, *factors: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        from abmll.gaussian import triton_kernels

        inner = times(x, joint_A(plan, factors).T).contiguous()
        value = torch.empty(base.shape, dtype=plan.dtype, device=base.device)
        has_prior = len(factors) == 8
        row_tiles, column_tiles = _grid(base.shape)
        parts = torch.zeros(2, row_tiles if has_prior else 0, column_tiles, dtype=plan.wide, device=base.device)
        if base.numel():
            with _on(base.device):
                triton_kernels.forward[(row_tiles, column_tiles)](
                    inner,
                    *_Bs(factors),
                    base.contiguous(),
                    _bytes(counted, base),
                    value,
                    *parts,
                    plan.seed,
                    *base.shape,
                    **_constants(plan, factors, counted),
                    HYPER_PRIOR=plan.request.hyper_prior,
                    num_warps=NUM_WARPS,
                )
        kl, hyper = parts.sum((1, 2), dtype=torch.float64).to(plan.wide)
        ctx.save_for_backward(x, inner, counted, *factors)
        ctx.plan, ctx.base_dtype = plan, base.dtype
        mark_outputs(ctx, value)
        return value, kl, hyper

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_value: Tensor | None, d_kl: Tensor | None, d_hyper: Tensor | None) -> tuple[Any, ...]:
        x, inner, counted, *factors = ctx.saved_tensors
        plan: Plan = ctx.plan
        d_kl, d_hyper = requested_gradients(plan, factors, d_kl, d_hyper)
        if (d_value is None and d_kl is None and d_hyper is None) or not len(x):
            return (None,) * (4 + len(factors))
        d_inner, d_Bs = _inner_gradients(plan, inner, counted, factors, d_value, d_kl, d_hyper)
        return gradients_of_inputs(ctx, x, factors, joint_A(plan, factors), d_value, d_inner, d_Bs)


def _inner_gradients(
    plan: Plan,
    inner: Tensor,
    counted: Tensor | None,
    factors: Sequence[Tensor],
    d_value: Tensor | None,
    d_kl: Tensor | None,
    d_hyper: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Gradients of the inner products (rows, inner) and of each B (factors, out_features, r)."""
    from abmll.gaussian import triton_kernels

    rows, columns, rank = len(inner), *factors[1].shape
    row_tiles, column_tiles = _grid((rows, columns))
    tiles = max(1, row_tiles * column_tiles // PROGRAMS)
    groups = -(-row_tiles // tiles)
    d_inner = inner.new_empty(column_tiles, *inner.shape)
    d_Bs = inner.new_empty(groups, len(factors) // 2, columns, rank)
    unused = inner
    with _on(inner.device):
        triton_kernels.backward[(groups, column_tiles)](
            inner,
            *_Bs(factors),
            _bytes(counted, unused),
            *(unused if d is None else d.contiguous() for d in (d_value, d_kl, d_hyper)),
            d_inner,
            d_Bs,
            plan.seed,
            rows,
            columns,
            tiles,
            **_constants(plan, factors, counted),
            HAS_VALUE=d_value is not None,
            HAS_KL=d_kl is not None,
            HAS_HYPER=d_hyper is not None,
            PRIOR_ONLY=plan.request.prior_only,
            num_warps=NUM_WARPS,
        )
    return d_inner.sum(0), d_Bs.sum(0)


def _grid(shape: Sequence[int]) -> tuple[int, int]:
    rows, columns = shape
    return -(-rows // BLOCK_ROWS), -(-columns // BLOCK_COLUMNS)


def _Bs(factors: Sequence[Tensor]) -> list[Tensor]:
    """mean_B, log_var_B and the prior's; without a prior the own ones in their places, unread."""
    own = [B.contiguous() for B in factors[1::2]]
    return own if len(own) == 4 else own * 2


def _bytes(counted: Tensor | None, unused: Tensor) -> Tensor:
    return unused if counted is None else counted.contiguous().view(torch.uint8)


def _constants(plan: Plan, factors: Sequence[Tensor], counted: Tensor | None) -> dict[str, Any]:
    import triton
    import triton.language as tl

    rank = factors[1].shape[1]
    return {
        "RANK": rank,
        "PADDED": max(16, triton.next_power_of_2(rank)),  # the least inner size of tl.dot
        "BLOCK_ROWS": BLOCK_ROWS,
        "BLOCK_COLUMNS": BLOCK_COLUMNS,
        "WIDE": {torch.float32: tl.float32, torch.float64: tl.float64}[plan.wide],
        "OFFSET": plan.offset,
        "OFFSET_DIFFERENCE": plan.offset_difference,
        "BOUND": plan.bound,
        "HAS_PRIOR": len(factors) == 8,
        "HAS_COUNTED": counted is not None,
        "SAMPLE": plan.request.sample,
        "ONE_SAMPLE": plan.request.estimator == "sample",
    }


def _on(device: torch.device) -> AbstractContextManager[Any]:
    """The kernels start on torch's current device, which need not be the tensors'."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
