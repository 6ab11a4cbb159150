"""The inner loop as a differentiable function of where it starts: gradients through gradient steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from abmll.core.errors import AbmllError
from abmll.core.params import add_to_grad, gradients_of
from abmll.core.types import META, TASK, Example, FunctionalLikelihood, Likelihood, Metrics
from abmll.methods.parts.inner import InnerLoop
from abmll.methods.parts.objective import Objective

WAY_BACK = 3
"""How many ordinary passes, forward and backward, an inner step costs that is differentiated through: itself, and the
way back through its forward and its backward pass, each twice as long as what it goes through."""


def require_sgd(inner: InnerLoop) -> None:
    """Raises AbmllError for an inner optimiser that has no derivative where every LoRA starts.

    Adam divides by the root of squared gradients; with B = 0 the gradient of A is exactly 0, and the root has no
    derivative there.
    """
    if inner.optimizer != "sgd":
        raise AbmllError(
            f"a gradient through the inner loop needs plain gradient steps, not {inner.optimizer!r}: "
            'set the inner optimizer to "sgd", or use a first-order method (fomaml, reptile, abmll).'
        )


def gradient_through(
    inner: InnerLoop,
    outer: Objective,
    likelihood: Likelihood,
    support: Sequence[Example],
    evaluated: Sequence[Example],
) -> Metrics:
    """Adds d outer(φ_K(θ), θ; evaluated) / dθ to META's gradient, exactly, where φ_0 = θ and

        φ_{k+1} = φ_k - α ∇_φ inner(φ_k, θ; support).

    θ is also the prior of both objectives, if they have a KL. Memory grows with K: every step's graph is kept.

    Raises:
        AbmllError: For a likelihood that cannot be evaluated at other tensors than its own.
    """
    if not isinstance(likelihood, FunctionalLikelihood):
        raise AbmllError(
            f"{type(likelihood).__name__} has no `at`, which a gradient through the inner loop needs. Implement "
            "abmll.core.types.FunctionalLikelihood, or use a first-order method (fomaml, reptile, abmll)."
        )
    meta = likelihood.parameters(META)
    theta = {name: tensor.detach().clone().requires_grad_() for name, tensor in meta.items()}
    phi: dict[str, Tensor] = theta
    inner_loss = torch.tensor(float("nan"))
    for batch in inner.batches(support):
        with (
            likelihood.at({META: theta, TASK: phi}),
            likelihood.terms(batch, sample=inner.objective.sample, kl=inner.objective.kl) as terms,
        ):
            inner_loss = inner.objective(terms)
            steps = torch.autograd.grad(inner_loss, list(phi.values()), create_graph=True, materialize_grads=True)
        phi = {name: phi[name] - inner.learning_rate * step for name, step in zip(phi, steps, strict=True)}
    with (
        likelihood.at({META: theta, TASK: phi}),
        likelihood.terms(evaluated, sample=outer.sample, kl=outer.kl, hyper_prior=bool(outer.prior_weight)) as terms,
    ):
        (gradient,) = gradients_of(outer(terms), theta)
    add_to_grad(meta, gradient)
    return {
        "inner_loss": float(inner_loss.detach()),
        "nll": float(outer.nll(terms).detach()),
        "kl": float(terms.kl.detach()),
        "hyper_prior": float(terms.hyper.detach()),
        "num_tokens": float(terms.num_tokens),
    }
