"""The plan of a Gaussian layer that is computed in tiles, and its products with the input, forward and backward.

`fused` and `triton_layer` have these in common: what lies between the inner products and the output is theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from abmll.core.types import PassRequest
from abmll.gaussian import moments, noise

CONVERTED_ROWS = 256
"""How many rows of a half-precision input are in the wide type at a time."""


class Plan(NamedTuple):
    """What is asked of the layer, and how it is computed.

    Attributes:
        request: see `layer_output.gaussian_output`; hyper_prior and prior_only are False without a prior.
        copies: which rows draw the same noise.
        wide: the type of the arithmetic.
        dtype: of the value.
    """

    request: PassRequest
    copies: noise.Copies | None
    scalings: tuple[float, ...]
    offset: float
    offset_difference: float
    bound: float | None
    wide: torch.dtype
    dtype: torch.dtype
    seed: int


def plan_of(
    x: Tensor,
    base: Tensor,
    posterior: moments.Factors,
    prior: moments.Factors | None,
    dtype: torch.dtype,
    request: PassRequest,
    copies: noise.Copies | None = None,
) -> tuple[Plan, list[Tensor]]:
    """What is asked for, with a seed from the global generator if it takes noise, and the four or eight factors."""
    gaussians = [posterior] if prior is None else [posterior, prior]
    factors = [tensor for g in gaussians for tensor in g[:4]]
    plan = Plan(
        request,
        copies,
        tuple(g.scaling for g in gaussians),
        posterior.offset,
        0.0 if prior is None else posterior.offset - prior.offset,
        posterior.bound,
        moments.at_least_float32(x, base, *factors),
        dtype,
        noise.draw_seed() if request.sample else 0,
    )
    return plan, factors


def joint_A(plan: Plan, factors: Sequence[Tensor]) -> Tensor:
    """(inner, in_features), all that the input is multiplied with: see `tile.Maps.A`; without a prior [A_μ; A_v]."""
    mean_A, log_var_A, *prior = (factor.to(plan.wide) for factor in factors[::2])
    s, *others = plan.scalings
    if not prior:
        return s * torch.cat([mean_A, log_var_A])
    # scaled last: of nearly equal numbers the difference is exact, that of their rounded multiples is not
    mean_difference, log_var_difference = (
        s * (A - p_A) if others[0] == s else s * A - others[0] * p_A
        for A, p_A in zip((mean_A, log_var_A), prior, strict=True)
    )
    return torch.cat([s * mean_A, mean_difference, s * log_var_A, log_var_difference])


def _split_A(plan: Plan, d_A: Tensor) -> list[Tensor]:
    """From the gradient of `tile.Maps.A` to those of mean_A and log_var_A of the posterior (and the prior)."""
    s, *others = plan.scalings
    if not others:
        return [s * part for part in d_A.chunk(2)]
    mean, mean_difference, log_var, log_var_difference = d_A.chunk(4)
    if plan.request.prior_only:  # the second of each is that of the prior's own product
        return [s * mean, s * log_var, others[0] * mean_difference, others[0] * log_var_difference]
    posterior = [s * (mean + mean_difference), s * (log_var + log_var_difference)]
    return [*posterior, -others[0] * mean_difference, -others[0] * log_var_difference]


def mark_outputs(ctx: Any, value: Tensor) -> None:
    """What autograd is to know of the outputs; ctx: as in `gradients_of_inputs`, with its plan."""
    ctx.set_materialize_grads(False)
    _, needs_x, needs_base, _, *needs = ctx.needs_input_grad
    if ctx.plan.request.prior_only and not (needs_x or needs_base or any(needs[:4])):
        ctx.mark_non_differentiable(value)


def requested_gradients(
    plan: Plan, factors: Sequence[Tensor], d_kl: Tensor | None, d_hyper: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients by kl and hyper, None for one that was not computed."""
    has_prior = len(factors) == 8
    return d_kl if has_prior else None, d_hyper if plan.request.hyper_prior else None


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

    Args:
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
    if needs_x and ctx.plan.request.prior_only:
        own, _, own_log_var, _ = d_inner.chunk(4, dim=1)
        A, _, A_log_var, _ = joint_A.chunk(4)
        d_x = (own @ A).addmm_(own_log_var, A_log_var).to(x.dtype)
    elif needs_x:
        d_x = (d_inner @ joint_A).to(x.dtype)
    d_base = d_value.to(ctx.base_dtype) if needs_base and d_value is not None else None
    return None, d_x, d_base, None, *d_factors


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
