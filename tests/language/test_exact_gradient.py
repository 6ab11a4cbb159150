"""ABMLL's outer gradient on a language model: finite differences along the inner loop against autograd through it."""

from __future__ import annotations

import pytest
import torch

from abmll.core.types import META, TASK, Episode
from abmll.methods.parts.amortised import Amortised
from abmll.methods.parts.natural import NaturalSteps
from abmll.methods.parts.prior_steps import log_var_of
from tests.language.test_functional import QUERY, SUPPORT, likelihood_of
from tests.parameters import few_of

WEIGHT = 0.3


def by_autograd(likelihood, inner):
    """Through every step, with all graphs kept: what the outer gradient is to be."""
    theta = {n: t.detach().clone().requires_grad_() for n, t in likelihood.parameters(META).items()}
    phi = dict(theta)

    def nll(rows):
        with likelihood.at({TASK: phi}), likelihood.terms(rows) as terms:
            return terms.nll.mean()

    means = [name for name in theta if log_var_of(name) != name]
    start = nll(SUPPORT)
    for _ in range(inner.num_steps):
        value = nll(SUPPORT)
        g = dict(zip(means, torch.autograd.grad(value, [phi[n] for n in means], create_graph=True), strict=True))
        variance = {n: (theta[log_var_of(n)].mean() + inner.log_var_offset).exp() for n in means}
        q = sum((variance[n] * g[n].square()).sum() for n in means)
        factor = inner.trust * value / (inner.trust * value + q)
        phi = phi | {n: phi[n] - factor * variance[n] * g[n] for n in means}
    outer = nll(QUERY) + WEIGHT * start
    return dict(zip(theta, torch.autograd.grad(outer, list(theta.values()), materialize_grads=True), strict=True))


# No closer in float64, because transformers' norms compute in float32 whatever the model's type is.
@pytest.mark.parametrize(
    ("dtype", "least", "answer"),
    few_of(
        [
            (torch.float64, 0.99999, "letters"),
            (torch.float64, 0.99999, "text"),
            (torch.float32, 0.999, "letters"),
            (torch.float32, 0.999, "text"),
        ],
        [(torch.float64, 0.99999, "text"), (torch.float32, 0.999, "letters")],
    ),
)
def test_finite_differences_give_the_gradient_through_the_inner_loop(dtype, least, answer):
    likelihood = likelihood_of(dtype=dtype, kind="abmll", space="factors", answer=answer)
    inner = NaturalSteps(3, 0.2, log_var_offset=-4.0)
    Amortised(inner, WEIGHT).meta_gradient(likelihood, Episode("task", SUPPORT, QUERY))
    expected = by_autograd(likelihood_of(kind="abmll", space="factors", answer=answer), inner)
    found = torch.cat([t.grad.flatten().double() for t in likelihood.parameters(META).values()])
    wanted = torch.cat([tensor.flatten() for tensor in expected.values()])
    assert torch.cosine_similarity(found, wanted, dim=0) > least
    assert found.norm() / wanted.norm() == pytest.approx(1, abs=1e-2)


def test_it_works_where_autograd_through_the_loop_cannot():
    """Under gradient checkpointing, with the same result."""
    grads = []
    for checkpointing in (False, True):
        likelihood = likelihood_of(kind="abmll", space="factors")
        if checkpointing:
            likelihood.model.gradient_checkpointing_enable({"use_reentrant": False})
        Amortised(NaturalSteps(2)).meta_gradient(likelihood, Episode("task", SUPPORT, QUERY))
        grads.append(torch.cat([t.grad.flatten() for t in likelihood.parameters(META).values()]))
    torch.testing.assert_close(*grads, rtol=1e-6, atol=1e-9 * float(grads[0].abs().max()))
