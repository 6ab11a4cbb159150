"""What a Gaussian over a layer's output adds to it, and its KL divergence: one function, three implementations.

"naive" is the formulas of `gaussian.moments` one after the other, differentiated by autograd any number of times; it
keeps some ten tensors of the output's size for the backward pass. "fused" computes the same in tiles and keeps
none. Both draw the same noise from the same state of the global generator; they differ in rounding alone. "triton" is
the fused one in two GPU kernels, with noise of its own. For outputs so large that memory matters "auto" takes "triton"
on CUDA, where triton is installed, and "fused" elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor

from abmll.core.errors import unknown_name
from abmll.core.types import PassRequest
from abmll.gaussian import fused, moments, noise, triton_layer
from abmll.gaussian.stochastic_pass import sum_counted

Implementation = Literal["auto", "fused", "naive", "triton"]
_chosen: Implementation = "auto"
FUSED_FROM = 2**18
"""Elements of an output (1 MB in float32) from which "auto" fuses. The naive one takes up to seven times the memory and
somewhat less time, more so for small outputs: see docs/performance.md."""


class LayerOutput(NamedTuple):
    """What a Gaussian layer gives.

    Attributes:
        value: the layer's output, shaped as `base`.
        kl: the divergence summed over counted rows and units, in nats; None without a prior.
        hyper: -log p of the prior's moments, summed likewise; None unless asked for.
    """

    value: Tensor
    kl: Tensor | None
    hyper: Tensor | None


@contextmanager
def implementation(name: Implementation | str) -> Iterator[None]:
    """In the block, every Gaussian output is computed in this way. "naive" can be differentiated twice.

    Args:
        name: "auto", "fused", "naive" or "triton".

    Raises:
        AbmllError: for an unknown name.
    """
    global _chosen  # a plain variable, not a thread-local, for the reason given in `gaussian.stochastic_pass`
    if name not in get_args(Implementation):
        raise unknown_name("implementation", name, get_args(Implementation))
    before, _chosen = _chosen, cast(Implementation, name)
    try:
        yield
    finally:
        _chosen = before


def twice_differentiable() -> bool:
    """Whether the block asks for an implementation that can be differentiated twice."""
    return _chosen == "naive"


def gaussian_output(
    x: Tensor,
    base: Tensor,
    posterior: moments.Factors,
    prior: moments.Factors | None = None,
    *,
    request: PassRequest,
    counted: Tensor | None = None,
    copies: noise.Copies | None = None,
    dtype: torch.dtype | None = None,
) -> LayerOutput:
    """base + mean(x), plus noise of variance e^log_var(x) for a sample; and KL(posterior ‖ prior), -log p(prior).

    Args:
        x: (..., in_features).
        base: (..., out_features), the frozen layer's output.
        posterior: the factors of the Gaussian that is added.
        prior: those of the one it is compared with.
        request: what to compute; without a prior there is nothing but the value.
        counted: (rows,) boolean, the rows (all but the last axis, flattened) that the sums count; None counts all.
        copies: which rows draw the same noise; None: each its own. The kernels of "triton" do not know copies, and
            "fused" takes their place.
        dtype: of the value; None takes the widest of base, factors and float32. Sums are in float32 at least.

    Returns:
        The value, shaped as `base`, and the two sums, in nats.
    """
    wide = moments.at_least_float32(x, base, posterior.mean_A)
    has_prior = prior is not None
    request = request if has_prior else PassRequest(request.sample)
    # a tile takes both Gaussians' ranks and bounds to be equal, as roles that PEFT made from one configuration are
    alike = prior is None or (
        prior.bound == posterior.bound
        and all(p.shape == q.shape for p, q in zip(prior[:4], posterior[:4], strict=True))
    )
    name = _implementation_for(base, wide) if alike else "naive"
    if name == "triton" and request.sample and copies is not None:
        name = "fused"
    compute = {"fused": fused.fused_output, "naive": _naive_output, "triton": triton_layer.triton_output}[name]
    value, kl, hyper = compute(
        x.flatten(0, -2), base.flatten(0, -2), posterior, prior, counted, dtype or wide, request, copies
    )
    return LayerOutput(value.view(base.shape), kl if has_prior else None, hyper if request.hyper_prior else None)


def _implementation_for(base: Tensor, wide: torch.dtype) -> str:
    if _chosen != "auto":
        return _chosen
    if base.numel() < FUSED_FROM:
        return "naive"
    return "triton" if triton_layer.suits(base, wide) else "fused"


def _naive_output(
    x: Tensor,
    base: Tensor,
    posterior: moments.Factors,
    prior: moments.Factors | None,
    counted: Tensor | None,
    dtype: torch.dtype,
    request: PassRequest,
    copies: noise.Copies | None,
) -> tuple[Tensor, Tensor, Tensor]:
    gaussians = [posterior] if prior is None or request.prior_only else [posterior, prior]
    q, *priors = moments.conditionals(x, *gaussians)
    value = q.mean
    if request.sample:
        rows = len(value) if copies is None else copies.num_tokens
        drawn = noise.whole(noise.draw_seed(), rows, value.shape[1], value.dtype, value.device)
        drawn = drawn if copies is None else drawn[copies.token]
        value = value + torch.exp(0.5 * q.log_var) * drawn
    compared = value
    if prior is not None and request.prior_only:
        priors = moments.conditionals(x.detach(), prior)
        compared, q = value.detach(), moments.Moments(*(moment.detach() for moment in q))
    kl = hyper = value.new_zeros(())
    for p in priors:
        one_sample = request.estimator == "sample"
        estimate = moments.kl_estimate(compared, *q, *p) if one_sample else moments.kl_divergence(*q, *p)
        kl = sum_counted(estimate, counted)
        if request.hyper_prior:
            hyper = sum_counted(moments.hyper_prior(*p), counted)
    return (base.to(value.dtype) + value).to(dtype), kl, hyper
