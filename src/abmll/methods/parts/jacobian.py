"""Jacobians of the choice log-probabilities: what Laplace's curvature and its linearised predictions are made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from abmll.core.params import train_only
from abmll.core.types import TASK, Example, Likelihood

Jacobian = dict[str, Tensor]
"""Name of a task tensor -> (choices, *its shape)."""


def choice_jacobians(
    likelihood: Likelihood, examples: Sequence[Example], names: Sequence[str]
) -> Iterator[tuple[Tensor, Jacobian]]:
    """For each example, log p (choices,) and its Jacobian by the task tensors of these names, where they stand.

    One forward pass an example and one backward pass a choice. Choices that an example does not have (-inf, at the
    end) are left out.
    """
    train_only(likelihood, TASK)
    params = likelihood.parameters(TASK)
    tensors = [params[name] for name in names]
    for example in examples:
        with likelihood.choice_graph([example]) as log_probs:
            values = log_probs[0][: len(example.choices)]
            rows = [torch.autograd.grad(v, tensors, retain_graph=True, materialize_grads=True) for v in values]
        yield (
            values.detach(),
            {name: torch.stack(parts) for name, parts in zip(names, zip(*rows, strict=True), strict=True)},
        )


def fisher_rows(log_probs: Tensor, jacobian: Mapping[str, Tensor]) -> Jacobian:
    """R with RᵀR = Jᵀ(diag p - ppᵀ)J, the generalised Gauss-Newton matrix of one example's cross-entropy.

    Log-probabilities are logits too (softmax ignores a shift), and for them pᵀJ = 0. What is left is
    Jᵀ diag(p) J, the Fisher information E_{c~p}[∇log p_c ∇log p_cᵀ]; so R = diag(√p) J.
    """
    root = (0.5 * log_probs).exp()
    return {name: root.view(-1, *[1] * (rows.dim() - 1)) * rows for name, rows in jacobian.items()}
