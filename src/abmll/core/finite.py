"""Refusing numbers that are not finite before anything is made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from abmll.core.errors import AbmllError
from abmll.core.types import Posterior

_REMEDY = (
    "Lower the method's learning_rate (or its num_steps), or check these examples for empty or broken rows. Nothing "
    "was written."
)


def require_finite_posterior(posterior: Posterior, adapted_to: str) -> None:
    """Raises AbmllError naming the first tensor of a posterior that holds NaN, or of its mean that is not finite.

    Args:
        adapted_to: what it was adapted to, in words, such as "task 'new'".
    """
    for kind, tensors, bad in (
        ("its mean", posterior.mean() or {}, lambda tensor: ~tensor.isfinite()),
        ("the posterior", posterior.state_dict(), torch.isnan),
    ):
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and (count := int(bad(tensor.detach()).sum())):
                raise AbmllError(
                    f"adapting to {adapted_to} overflowed: {name!r} of {kind} is not finite ({count} of "
                    f"{tensor.numel()} values). {_REMEDY}"
                )


def require_finite_predictions(log_probs: Tensor, ids: Sequence[str], task: str) -> None:
    """Raises AbmllError naming the first example whose log-probabilities (samples, examples, choices) hold NaN."""
    bad = (log_probs.isnan() | (log_probs == math.inf)).any(-1).any(0)
    if bad.any():
        first = ids[int(bad.nonzero()[0])]
        raise AbmllError(
            f"predicting {task} overflowed: the probabilities of {int(bad.sum())} of {len(ids)} examples, the first of "
            f"them {first!r}, are not numbers. {_REMEDY}"
        )
