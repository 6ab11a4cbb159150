"""Inducing variables against the dense joint Gaussian of weights and inducing variables, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from abmll.core.errors import AbmllError
from abmll.core.params import clone
from abmll.core.types import META
from abmll.methods.bayesian_lora import BayesianLora
from abmll.methods.parts.gradient import GradientAdaptation
from abmll.methods.parts.inducing import InducingMatrix
from abmll.methods.parts.inner import InnerLoop
from abmll.methods.tfb import mixture_nll
from tests.draws import many
from tests.toy_classifier import LORA_A, LORA_B, ClassifierToy, make_questions

M, K, SIZE = 3, 4, 2


def normal(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def matrix():
    """An inducing matrix with all its parameters away from their initial values."""
    out = InducingMatrix(torch.zeros(M, K, dtype=torch.float64), SIZE)
    with torch.no_grad():
        for seed, parameter in enumerate(out.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=seed))
    return out.requires_grad_(False)


def joint(matrix):
    """Dense prior covariance blocks of row-major vec(W), vec(U)."""
    K_r, K_c = (
        Z @ Z.mT + torch.diag(F.softplus(raw).square())
        for Z, raw in ((matrix.Z_r, matrix.raw_D_r), (matrix.Z_c, matrix.raw_D_c))
    )
    return torch.eye(M * K, dtype=torch.float64), torch.kron(matrix.Z_r.mT, matrix.Z_c.mT), torch.kron(K_r, K_c)


def linear_map(function, rows, columns):
    """The matrix of a linear function of a (rows, columns) matrix, row-major."""
    units = torch.eye(rows * columns, dtype=torch.float64).view(-1, rows, columns)
    return torch.stack([function(unit).flatten() for unit in units], dim=1)


def inducing_to_white(matrix):
    """vec(U) = R vec(V)."""
    _, _, L_r, L_c = matrix.transforms()
    return torch.kron(L_r, L_c)


def test_conditional_mean_is_the_dense_one(matrix):
    _, cross, cov_U = joint(matrix)
    found = linear_map(matrix.conditional_mean, SIZE, SIZE)
    expected = cross @ torch.linalg.inv(cov_U) @ inducing_to_white(matrix)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_whitening_has_the_prior_covariance_of_u(matrix):
    R = inducing_to_white(matrix)
    torch.testing.assert_close(R @ R.mT, joint(matrix)[2], rtol=1e-10, atol=1e-12)


def test_conditional_noise_has_the_dense_conditional_covariance(matrix):
    cov_W, cross, cov_U = joint(matrix)
    J = linear_map(matrix.conditional_noise, M + SIZE, K + SIZE)
    expected = cov_W - cross @ torch.linalg.inv(cov_U) @ cross.mT
    torch.testing.assert_close(J @ J.mT, expected, rtol=1e-9, atol=1e-10)


def test_at_the_prior_the_draw_is_white(matrix):
    """V ~ N(0, 1) and λ = 1: mean part and noise part add up to the prior's identity covariance."""
    mean, noise = (
        linear_map(matrix.conditional_mean, SIZE, SIZE),
        linear_map(matrix.conditional_noise, M + SIZE, K + SIZE),
    )
    torch.testing.assert_close(mean @ mean.mT + noise @ noise.mT, torch.eye(M * K, dtype=torch.float64))


def test_more_inducing_rows_than_the_matrix_has_is_no_trouble():
    torch.manual_seed(0)
    out = InducingMatrix(torch.zeros(2, 40), 9)  # float32, as on a language model
    J = linear_map(lambda E: out.conditional_noise(E.float()).double(), 11, 49)
    assert J.isfinite().all()
    assert out.draw().shape == (2, 40)
    out.draw().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in out.parameters())


def test_draws_have_the_mean_and_covariance_of_q(matrix):
    mean, noise = (
        linear_map(matrix.conditional_mean, SIZE, SIZE),
        linear_map(matrix.conditional_noise, M + SIZE, K + SIZE),
    )
    std, scale = F.softplus(matrix.raw_std).flatten(), F.softplus(matrix.raw_scale)
    expected = mean @ torch.diag(std.square()) @ mean.mT + scale.square() * noise @ noise.mT
    torch.manual_seed(0)
    rows = many(matrix.draw, 1500).flatten(1)
    variance = expected.diagonal()
    centre = mean @ matrix.mean.flatten()
    assert ((rows.mean(0) - centre).abs() < 5 * (variance / 1500).sqrt()).all()
    error = ((torch.outer(variance, variance) + expected.square()) / 1500).sqrt()
    assert ((rows.T.cov() - expected).abs() < 5 * error).all()


def test_kl_against_torch_distributions(matrix):
    """Of the joint: q(U) to p(U), plus the conditional's, which is the same whatever U is."""
    cov_W, cross, cov_U = joint(matrix)
    R = inducing_to_white(matrix)
    std, scale = F.softplus(matrix.raw_std).flatten(), F.softplus(matrix.raw_scale)
    q_U = torch.distributions.MultivariateNormal(R @ matrix.mean.flatten(), R @ torch.diag(std.square()) @ R.mT)
    p_U = torch.distributions.MultivariateNormal(torch.zeros(SIZE**2, dtype=torch.float64), cov_U)
    conditional = cov_W - cross @ torch.linalg.inv(cov_U) @ cross.mT
    zero = torch.zeros(M * K, dtype=torch.float64)
    q_W = torch.distributions.MultivariateNormal(zero, scale.square() * conditional)
    p_W = torch.distributions.MultivariateNormal(zero, conditional)
    kl = torch.distributions.kl_divergence
    torch.testing.assert_close(matrix.kl_divergence(), kl(q_U, p_U) + kl(q_W, p_W), rtol=1e-8, atol=0)


def test_adaptation_starts_at_its_centre_and_lowers_the_loss():
    likelihood, support = ClassifierToy(), make_questions(12)
    theta = clone(likelihood.parameters(META))
    torch.manual_seed(0)
    start: Any = BayesianLora(inner=InnerLoop(0)).adapt(likelihood, support).distribution
    for name in (LORA_A, LORA_B):
        torch.testing.assert_close(start.mean[name], theta[name])
    end: Any = BayesianLora(inner=InnerLoop(40, 0.1), kl_weight=0.01).adapt(likelihood, support).distribution
    assert mixture_nll(likelihood, [end.mean], support) < 0.8 * mixture_nll(likelihood, [theta], support)
    moved: Any = (
        BayesianLora(GradientAdaptation(InnerLoop(9, 0.1)), InnerLoop(0)).adapt(likelihood, support).distribution
    )
    assert mixture_nll(likelihood, [moved.mean], support) < mixture_nll(likelihood, [theta], support)


def test_the_kl_alone_leads_to_the_prior():
    """Without a pull from the data λ and the widths of V go to 1, hence φ to N(φ0, prior_std²)."""
    likelihood, support = ClassifierToy(), make_questions(1)
    method = BayesianLora(inner=InnerLoop(120, 0.2), num_inducing=2, prior_std=0.5, kl_weight=1e4)
    torch.manual_seed(0)
    found: Any = method.adapt(likelihood, support).distribution
    for matrix in found.matrices.values():
        assert F.softplus(matrix.raw_scale).item() == pytest.approx(1, abs=0.03)
        assert (F.softplus(matrix.raw_std) - 1).abs().max() < 0.03
        assert matrix.mean.abs().max() < 0.03


def test_wrong_options_are_told():
    with pytest.raises(AbmllError, match="num_inducing must be at least 1"):
        BayesianLora(num_inducing=0)
