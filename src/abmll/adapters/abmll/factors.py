"""A Gaussian over the two factors of a LoRA, element by element: the weight space of the original ABML."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import torch
from torch import Tensor

from abmll.gaussian import moments
from abmll.gaussian.stochastic_pass import StochasticPass


def mean_field(factors: moments.Factors) -> tuple[moments.Moments, moments.Moments]:
    """The Gaussians of A and of B, in float32 at least: log-variances are the offset plus the stored tensor."""
    dtype = moments.at_least_float32(factors.mean_A)
    return (
        moments.Moments(factors.mean_A.to(dtype), factors.log_var_A.to(dtype) + factors.offset),
        moments.Moments(factors.mean_B.to(dtype), factors.log_var_B.to(dtype) + factors.offset),
    )


def factor_output(layer: Hashable, x: Tensor, gaussians: Sequence[moments.Factors], record: StochasticPass) -> Tensor:
    """s·B A x; in a sampling pass A and B are drawn anew for each row of the batch, shared by its tokens and copies.

    Args:
        x: (batch, tokens, in_features), or (batch·tokens, in_features) if the pass has a mask to tell the rows by. Rows
            are independent draws, so that the samples of a prediction may share a pass and gradients vary less.
        gaussians: the posterior's factors, and the prior's if there is one: then KL(posterior ‖ prior) is reported for
            the layer, as a sum over elements; the one-sample estimate is its mean over rows.
    """
    q, *priors = (mean_field(factors) for factors in gaussians)
    rows = len(x) if record.mask is None else len(record.mask)
    examples = rows if record.copies is None else record.copies.num_rows
    tokens = x.reshape(rows, -1, x.shape[-1]).to(q[0].mean.dtype)
    request = record.request
    A, B = (
        moments.sample(*(m.expand(examples, *m.shape) for m in part)) if request.sample else part.mean for part in q
    )
    compared, drawn = q, (A, B)
    if request.prior_only:
        compared, drawn = mean_field(gaussians[0].constant()), (A.detach(), B.detach())
    for prior in priors:
        if request.estimator == "sample":
            parts = zip(drawn, compared, prior, strict=True)
            estimates = (moments.kl_estimate(v, *(m.expand_as(v) for m in (*part, *p))) for v, part, p in parts)
            kl = sum_of(estimates) / examples
        else:
            kl = sum_of(moments.kl_divergence(*part, *p) for part, p in zip(compared, prior, strict=True))
        hyper = sum_of(moments.hyper_prior(*p) for p in prior) if request.hyper_prior else None
        record.report_sum(layer, kl, hyper)
    if request.sample and record.copies is not None:
        A, B = A[record.copies.row], B[record.copies.row]
    return (gaussians[0].scaling * (tokens @ A.mT) @ B.mT).reshape(*x.shape[:-1], -1)


def sum_of(values: Iterable[Tensor]) -> Tensor:
    """The sum over all elements of all tensors."""
    return torch.stack([value.sum() for value in values]).sum()
