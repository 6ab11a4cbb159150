"""A Gaussian over a layer's weights in a stochastic pass."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from abmll.core.errors import AbmllError
from abmll.gaussian import moments, weight_space
from abmll.gaussian.stochastic_pass import StochasticPass


def weight_output(
    layer: Hashable,
    base: Tensor,
    x: Tensor,
    gaussians: Sequence[moments.Factors],
    record: StochasticPass,
    dtype: torch.dtype,
    kl_rows: int | None,
) -> Tensor:
    """base + W x, in `dtype`; in a sampling pass W is drawn anew for each row and shared by its tokens and copies.

    Args:
        x: (batch, tokens, in_features), or (batch·tokens, in_features) if the pass has a mask to tell the rows by.
        gaussians: the posterior's factors, and the prior's if there is one: then KL(posterior ‖ prior) is reported for
            the layer, as a sum over its weights, whatever the batch.
        kl_rows: see `weight_space.divergence`.

    Raises:
        AbmllError: If the one-sample estimate is asked for.
    """
    q, *priors = gaussians
    for prior in priors:
        if record.request.estimator == "sample":
            raise AbmllError(
                "the one-sample KL estimate is not offered for space='weight': set estimator = \"closed_form\", "
                "which is exact and costs the same."
            )
        own = q.constant() if record.request.prior_only else q
        sums = weight_space.divergence(own, prior, hyper_prior=record.request.hyper_prior, rows=kl_rows)
        record.report_sum(layer, *sums)
    if not record.request.sample:
        return moments.plus_low_rank(base, x, q.mean_A, q.mean_B, q.scaling).to(dtype)
    rows = len(x) if record.mask is None else len(record.mask)
    tokens, outputs = (tensor.reshape(rows, -1, tensor.shape[-1]) for tensor in (x, base))
    return weight_space.sampled_output(tokens, outputs, q, dtype, record.copies).view(base.shape)
