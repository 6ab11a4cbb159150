"""Laplace against conjugate answers, brute-force curvatures and numeric integration, in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from abmll.core.errors import AbmllError
from abmll.core.params import assign
from abmll.core.types import META, TASK
from abmll.methods.laplace import Laplace, last_layer
from abmll.methods.parts.curvature import DiagonalCurvature, FullCurvature, KroneckerCurvature
from abmll.methods.parts.evidence import best_precision, log_evidence
from abmll.methods.parts.gradient import GradientAdaptation, NoAdaptation
from abmll.methods.parts.inner import InnerLoop
from abmll.methods.parts.jacobian import choice_jacobians, fisher_rows
from tests.draws import many
from tests.toy import GaussianToy, ToyEpisodes
from tests.toy_classifier import LORA_A, LORA_B, ClassifierToy, make_questions

POINT = GradientAdaptation(InnerLoop(30, 0.05))


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def flat(tensors):
    return torch.cat([tensor.flatten(1) for tensor in tensors.values()], dim=1)


def covariance(curvature, like, precision):
    """(H + λI)^-1 as the curvature itself sees it: the root applied to every unit vector, squared."""
    count = sum(tensor.numel() for tensor in like.values())
    parts = torch.eye(count, dtype=torch.float64).split([tensor.numel() for tensor in like.values()], dim=1)
    units = {name: part.view(-1, *like[name].shape) for name, part in zip(like, parts, strict=True)}
    root = flat(curvature.whiten(units, precision))
    return root.mT @ root


def dense(rows):
    return flat(rows).mT @ flat(rows)


# --- a Gaussian likelihood: Laplace is exact ---


@pytest.mark.parametrize("kind", [DiagonalCurvature, KroneckerCurvature, FullCurvature])
def test_exact_on_linear_gaussian_regression(kind):
    """Mean, covariance and evidence of y ~ N(Xw, s²), w ~ N(0, 1/λ) are the conjugate ones."""
    noise, precision = 0.3, 1.7
    X, y = normal(12, 4, seed=0), normal(12, seed=1)
    if kind is DiagonalCurvature:  # exact where the design is orthogonal
        X = torch.linalg.qr(X).Q * torch.tensor([1.0, 2.0, 0.5, 3.0])
    like = {"w": torch.zeros(4, dtype=torch.float64)}
    curvature = kind(like)
    for row in X:
        curvature.add({"w": row[None] / math.sqrt(noise)})

    posterior = torch.linalg.inv(X.mT @ X / noise + precision * torch.eye(4, dtype=torch.float64))
    mode = posterior @ X.mT @ y / noise
    torch.testing.assert_close(covariance(curvature, like, precision), posterior, rtol=1e-10, atol=1e-12)

    marginal = torch.distributions.MultivariateNormal(
        torch.zeros_like(y), noise * torch.eye(12, dtype=torch.float64) + X @ X.mT / precision
    )
    log_likelihood = torch.distributions.Normal(X @ mode, math.sqrt(noise)).log_prob(y).sum().item()
    evidence = log_evidence(log_likelihood, mode.square().sum().item(), curvature.eigenvalues(), precision)
    assert evidence == pytest.approx(marginal.log_prob(y).item(), rel=1e-10)


def test_best_precision_maximises_the_evidence():
    eigenvalues = normal(30, seed=2).exp()
    best = best_precision(3.2, eigenvalues)
    grid = torch.linspace(-4, 8, 2001).exp().tolist()
    scan = max(grid, key=lambda precision: log_evidence(0.0, 3.2, eigenvalues, precision))
    assert best == pytest.approx(scan, rel=0.007)
    assert all(log_evidence(0.0, 3.2, eigenvalues, best) >= log_evidence(0.0, 3.2, eigenvalues, p) for p in grid)


# --- curvatures against brute force ---


def examples_of_rows(count=5, choices=3, m=2, k=4):
    return [{"M": normal(choices, m, k, seed=i), "v": normal(choices, 3, seed=100 + i)} for i in range(count)]


def test_full_and_diagonal_against_brute_force():
    rows = examples_of_rows()
    like = {name: part[0] for name, part in rows[0].items()}
    full, diagonal = FullCurvature(like), DiagonalCurvature(like)
    for row in rows:
        full.add(row)
        diagonal.add(row)
    H = sum(dense(row) for row in rows)
    torch.testing.assert_close(covariance(full, like, 0.7), torch.linalg.inv(H + 0.7 * torch.eye(11)))
    torch.testing.assert_close(covariance(diagonal, like, 0.7), torch.diag(1 / (H.diagonal() + 0.7)))
    torch.testing.assert_close(diagonal.eigenvalues(), H.diagonal())


def test_kronecker_against_its_formula():
    rows = examples_of_rows()
    like = {name: part[0] for name, part in rows[0].items()}
    curvature = KroneckerCurvature(like)
    for row in rows:
        curvature.add(row)
    G = torch.cat([row["M"] for row in rows])
    U, V = (G @ G.mT).sum(0), (G.mT @ G).sum(0)
    block = torch.kron(U, V) / U.trace()
    assert block.trace().item() == pytest.approx(sum(dense(row)[:8, :8].trace() for row in rows).item())
    expected = torch.linalg.inv(torch.block_diag(block, sum(dense(row)[8:, 8:] for row in rows)) + 0.5 * torch.eye(11))
    torch.testing.assert_close(covariance(curvature, like, 0.5), expected, rtol=1e-9, atol=1e-11)


def test_rank_keeps_the_leading_directions_of_each_factor():
    G = normal(9, 3, 4, seed=5)
    like = {"M": G[0]}
    curvature = KroneckerCurvature(like, rank=2)
    curvature.add({"M": G})
    factors = []
    for factor in ((G @ G.mT).sum(0), (G.mT @ G).sum(0)):
        values, vectors = torch.linalg.eigh(factor)
        factors.append(vectors[:, -2:] @ torch.diag(values[-2:]) @ vectors[:, -2:].mT)
    expected = torch.linalg.inv(torch.kron(*factors) / G.square().sum() + 0.5 * torch.eye(12))
    torch.testing.assert_close(covariance(curvature, like, 0.5), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("shared", ["left", "right"])
def test_kronecker_is_exact_where_one_factor_is_shared(shared):
    u, v = normal(3, seed=1), normal(4, seed=2)
    rows = [
        {"M": (u[:, None] * normal(4, seed=i) if shared == "left" else normal(3, seed=i)[:, None] * v)[None]}
        for i in range(6)
    ]
    curvature, like = KroneckerCurvature({"M": rows[0]["M"][0]}), {"M": rows[0]["M"][0]}
    for row in rows:
        curvature.add(row)
    H = sum(dense(row) for row in rows)
    torch.testing.assert_close(
        covariance(curvature, like, 0.5), torch.linalg.inv(H + 0.5 * torch.eye(12)), rtol=1e-9, atol=1e-11
    )


def test_jacobians_and_fisher_are_softmax_regressions():
    likelihood, examples = ClassifierToy(), make_questions(4)
    (A, B) = (likelihood.parameters(TASK)[name].detach() for name in (LORA_A, LORA_B))
    probs = likelihood.choice_log_probs(examples)[0].exp()
    found = choice_jacobians(likelihood, examples, [LORA_A, LORA_B])
    for example, p, (log_probs, jacobian) in zip(examples, probs, found, strict=True):
        x = torch.tensor([float(value) for value in example.prompt.split()], dtype=torch.float64)
        torch.testing.assert_close(log_probs.exp(), p)
        centre = torch.eye(3, dtype=torch.float64) - p  # d log p_c / d f_j
        torch.testing.assert_close(jacobian[LORA_A], torch.einsum("cj,jr,k->crk", centre, B, x))
        torch.testing.assert_close(jacobian[LORA_B], torch.einsum("cj,r->cjr", centre, A @ x))
        J = torch.cat([torch.einsum("jr,k->jrk", B, x).flatten(1), torch.kron(torch.eye(3), A @ x)], dim=1)
        ggn = J.mT @ (torch.diag(p) - torch.outer(p, p)) @ J  # of the logits, the textbook's
        torch.testing.assert_close(dense(fisher_rows(log_probs, jacobian)), ggn, rtol=1e-10, atol=1e-12)


def test_curvature_of_adapt_is_the_hessian_of_the_nll():
    """With A alone the logits are linear, so the Gauss-Newton matrix is the exact Hessian."""
    likelihood, support = ClassifierToy(), make_questions(7)
    posterior: Any = Laplace(POINT, "full", prior_precision=1.0).adapt(likelihood, support)
    mean = {name: tensor.clone() for name, tensor in posterior.distribution.mean.items()}
    targets = torch.tensor([example.target for example in support])

    def nll(A):
        logits = likelihood.logits(support, {LORA_A: A, LORA_B: mean[LORA_B]})
        return torch.nn.functional.cross_entropy(logits, targets, reduction="sum")

    hessian = torch.autograd.functional.hessian(nll, mean[LORA_A]).view(6, 6)
    torch.testing.assert_close(posterior.distribution.curvature.matrix[:6, :6], hessian, rtol=1e-10, atol=1e-12)


def test_kronecker_is_exact_on_vectors():
    likelihood, support = GaussianToy(gaussian=False), ToyEpisodes()[0].support
    kronecker: Any = Laplace(POINT, "kronecker", prior_precision=2.0).adapt(likelihood, support).distribution
    full: Any = Laplace(POINT, "full", prior_precision=2.0).adapt(likelihood, support).distribution
    like = kronecker.mean
    torch.testing.assert_close(covariance(kronecker.curvature, like, 2.0), covariance(full.curvature, like, 2.0))


# --- predictions ---


def test_linearised_predictive_against_numeric_integration():
    """Two choices: E[σ(f)] over f ~ N(m, v) on a fine grid."""
    likelihood, support = ClassifierToy(classes=2), make_questions(6, classes=2)
    query = make_questions(3, classes=2, seed=9)
    posterior: Any = Laplace(POINT, "full", prior_precision=0.5).adapt(likelihood, support)
    torch.manual_seed(0)
    found = posterior.predict(query, 200_000).exp().mean(0)[:, 0]
    sigma = covariance(posterior.distribution.curvature, posterior.distribution.mean, 0.5)
    assign(likelihood.parameters(TASK), posterior.distribution.mean)
    for p, (log_probs, jacobian) in zip(found, choice_jacobians(likelihood, query, [LORA_A, LORA_B]), strict=True):
        slope = (flat(jacobian)[0] - flat(jacobian)[1])[None]
        mean, std = log_probs[0] - log_probs[1], (slope @ sigma @ slope.mT).sqrt().item()
        grid = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
        weight = torch.exp(-0.5 * grid.square())
        expected = (weight * torch.sigmoid(mean + std * grid)).sum() / weight.sum()
        assert p.item() == pytest.approx(expected.item(), abs=4 * 0.5 / math.sqrt(200_000))


def test_draws_have_the_covariance():
    likelihood, support = ClassifierToy(rank=1, features=2), make_questions(6, features=2)
    posterior: Any = Laplace(POINT, "kronecker", prior_precision=1.0, linearized=False).adapt(likelihood, support)
    distribution = posterior.distribution
    torch.manual_seed(1)
    stacked = flat(many(distribution.draw, 4_000))
    expected = covariance(distribution.curvature, distribution.mean, 1.0)
    scale = expected.diagonal().sqrt()
    assert ((stacked.T.cov() - expected) / torch.outer(scale, scale)).abs().max() < 0.1
    assert posterior.predict(support, 3).shape == (3, 6, 3)


def test_at_zero_samples_and_at_infinite_precision_it_predicts_at_the_mode():
    likelihood, support = ClassifierToy(), make_questions(6)
    posterior: Any = Laplace(POINT, prior_precision=1e14).adapt(likelihood, support)
    at_mode = posterior.predict(support, 0)
    torch.testing.assert_close(posterior.predict(support, 2), at_mode.expand(2, -1, -1), rtol=0, atol=1e-5)
    likelihood.parameters(TASK)[LORA_A].data.zero_()
    torch.testing.assert_close(posterior.predict(support, 0), at_mode)


def test_the_point_adaptation_inside_decides_the_mode():
    likelihood, support = ClassifierToy(), make_questions(6)
    theta = {name: tensor.detach().clone() for name, tensor in likelihood.parameters(META).items()}
    still: Any = Laplace(NoAdaptation()).adapt(likelihood, support).distribution
    moved: Any = Laplace(POINT).adapt(likelihood, support).distribution
    assert all(torch.equal(still.mean[name], theta[name]) for name in theta)
    assert not any(torch.equal(moved.mean[name], theta[name]) for name in theta)
    meta: Any = Laplace(NoAdaptation(), prior_mean="meta").adapt(likelihood, support).distribution
    assert meta.precision > 1e6 * still.precision  # the mode is the prior's own mean: nothing speaks for a spread


def test_last_layer_is_gaussian_alone():
    bias = "layers.1.bias"
    likelihood, support = ClassifierToy(extra=[bias]), make_questions(6)
    posterior: Any = Laplace(POINT, scope="last_layer").adapt(likelihood, support)
    draw, mean = posterior.distribution.draw(), posterior.distribution.mean
    assert torch.equal(draw[LORA_A], mean[LORA_A])
    assert not torch.equal(draw[bias], mean[bias])
    names = ["layers.2.q.lora_A", "layers.10.q.lora_A", "layers.10.v.lora_A", "embed.lora_A"]
    assert last_layer(names) == ["layers.10.q.lora_A", "layers.10.v.lora_A"]
    assert last_layer([*names, "lm_head.lora_B"]) == ["lm_head.lora_B"]
    assert last_layer(["mean"]) == ["mean"]


# --- traps ---


def test_dropout_never_reaches_the_curvature_or_the_predictions():
    likelihood, support = ClassifierToy(dropout=0.5), make_questions(6)
    found: Any = [Laplace(NoAdaptation()).adapt(likelihood, support) for _ in range(2)]
    assert found[0].distribution.log_evidence == found[1].distribution.log_evidence
    predictions = []
    for posterior in found:
        torch.manual_seed(0)
        predictions.append(posterior.predict(support, 3))
    assert torch.equal(*predictions)


def test_absent_choices_stay_absent():
    likelihood = GaussianToy(gaussian=False)
    query = list(ToyEpisodes()[0].query)
    wide = query[0]._replace(choices=(*query[0].choices, "9 9 9"))
    posterior = Laplace(POINT).adapt(likelihood, ToyEpisodes()[0].support)
    predicted = posterior.predict([wide, query[1]], 5)
    assert predicted.shape == (5, 2, 3)
    assert predicted[:, 0].isfinite().all()
    assert (predicted[:, 1, 2] == -torch.inf).all()
    torch.testing.assert_close(predicted.exp().sum(-1), torch.ones(5, 2, dtype=predicted.dtype))


def test_wrong_options_are_told():
    with pytest.raises(AbmllError, match="rank must be at least 1 and prior_precision above 0"):
        Laplace(prior_precision=-1.0)
    with pytest.raises(AbmllError, match="Did you mean 'kronecker'"):
        Laplace(structure="kroneker")  # type: ignore[arg-type]
