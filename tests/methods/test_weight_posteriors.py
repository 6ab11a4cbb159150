"""SWAG, training-free Bayesianization and BLoB against sample moments, scans and torch.distributions, in float64."""

from __future__ import annotations

import itertools
import math
import operator
from functools import partial
from typing import Any

import pytest
import torch

from abmll.core.errors import AbmllError
from abmll.core.params import assign, clone
from abmll.core.types import META, TASK
from abmll.methods import build_method
from abmll.methods.blob import Blob, divergence, flip, kl_weight, perturbed, schedule_length
from abmll.methods.multitask import MultiTask
from abmll.methods.parts.gradient import GradientAdaptation, NoAdaptation
from abmll.methods.parts.inner import InnerLoop
from abmll.methods.parts.weights import DiagonalGaussian, WeightPosterior, backpropagate_nll
from abmll.methods.reptile import Reptile
from abmll.methods.swag import RunningMoments, Swag, SwagGaussian
from abmll.methods.tfb import TrainingFreeBayes, balance, largest, mixture_nll
from tests.draws import many
from tests.toy import GaussianToy, ToyEpisodes
from tests.toy_classifier import LORA_A, LORA_B, ClassifierToy, make_questions


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moments_of(draw, count):
    """Sample mean and covariance of `count` draws, all tensors end to end."""
    rows = torch.cat([tensor.flatten(1) for tensor in many(draw, count).values()], 1)
    return rows.mean(0), rows.T.cov()


def assert_covariance(found, expected, count):
    """Entry by entry within 5 standard errors of a Gaussian's sample covariance."""
    variance = expected.diagonal()
    error = ((torch.outer(variance, variance) + expected.square()) / count).sqrt()
    assert ((found - expected).abs() <= 5 * error + 1e-12).all()


# --- SWAG ---


def trajectory(count=9):
    return [{"a": normal(2, 2, seed=i), "b": 3 + normal(2, seed=50 + i)} for i in range(count)]


def test_swag_moments_are_the_sample_moments():
    path = trajectory()
    moments = RunningMoments(rank=4)
    for params in path:
        moments.add(params)
    gaussian = moments.gaussian()
    for name in ("a", "b"):
        stacked = torch.stack([params[name] for params in path])
        torch.testing.assert_close(gaussian.mean[name], stacked.mean(0), rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(gaussian.variance[name], stacked.var(0, correction=0), rtol=1e-12, atol=1e-14)
        running = [stacked[i] - stacked[: i + 1].mean(0) for i in range(5, 9)]
        torch.testing.assert_close(gaussian.deviations[name], torch.stack(running), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("rank", [0, 3])
def test_swag_draws_have_its_covariance(rank):
    """Across tensors too: the low-rank part ties them together, the diagonal noise does not."""
    moments = RunningMoments(rank)
    for params in trajectory():
        moments.add(params)
    gaussian = moments.gaussian()
    variance = torch.cat([v.flatten() for v in gaussian.variance.values()])
    expected = torch.diag(variance)
    if rank:
        D = torch.cat([rows.flatten(1) for rows in gaussian.deviations.values()], dim=1)
        expected = 0.5 * expected + D.T @ D / (2 * (rank - 1))
    torch.manual_seed(0)
    _, found = moments_of(gaussian.draw, 3000)
    assert_covariance(found, expected, 3000)


def test_swag_collects_the_iterates_after_start():
    likelihood, support = ClassifierToy(), make_questions(6)
    seen = []
    InnerLoop(8, 0.05).run(likelihood, support, None, lambda _: seen.append(clone(likelihood.parameters(TASK))))
    found: Any = Swag(InnerLoop(8, 0.05), start=2, every=2, rank=2).adapt(likelihood, support).distribution
    for name in (LORA_A, LORA_B):
        torch.testing.assert_close(found.mean[name], torch.stack([seen[i][name] for i in (3, 5, 7)]).mean(0))
        assert found.deviations[name].shape == (2, *seen[0][name].shape)


def test_swag_learning_rate_holds_from_start_on():
    likelihood, support = GaussianToy(gaussian=False), ToyEpisodes()[0].support
    y = torch.stack([torch.tensor([float(v) for v in e.prompt.split()], dtype=torch.float64) for e in support]).mean(0)
    theta = likelihood.parameters(META)["mean"].detach()
    found: Any = Swag(InnerLoop(5, 0.05, "sgd"), start=3, learning_rate=0.2, rank=0).adapt(likelihood, support)
    slow, fast = 1 - 0.05 / 0.5, 1 - 0.2 / 0.5  # contraction of φ - ȳ at each step
    expected = y + (theta - y) * slow**3 * (fast + fast**2) / 2
    torch.testing.assert_close(found.distribution.mean["mean"], expected)


def test_swag_refuses_a_trajectory_that_is_too_short():
    with pytest.raises(AbmllError, match=r"leave fewer than two\. Raise num_steps, or lower start or every"):
        Swag(InnerLoop(10), start=9)


# --- training-free Bayesianization ---


@pytest.mark.parametrize(("rank", "classes"), [(2, 4), (4, 3)])
def test_balancing_leaves_the_function_alone_and_makes_the_noise_isotropic(rank, classes):
    params = clone(ClassifierToy(features=5, classes=classes, rank=rank).parameters(META))
    mean, unit = balance(params)
    torch.testing.assert_close(mean[LORA_B] @ mean[LORA_A], params[LORA_B] @ params[LORA_A])
    # covariance of the columns of B'E with E ~ N(0, unit²): the projection on B's column space
    found = mean[LORA_B] @ torch.diag(unit[LORA_A][:, 0].square()) @ mean[LORA_B].T
    B = params[LORA_B]
    torch.testing.assert_close(found, B @ torch.linalg.pinv(B))


def test_directions_that_b_lacks_get_no_noise():
    params = clone(ClassifierToy(rank=3, classes=4).parameters(META))
    params[LORA_B][:, 2] = params[LORA_B][:, 0]
    _, unit = balance(params)
    assert unit[LORA_A].isfinite().all()
    assert (unit[LORA_A][2] == 0).all()
    params[LORA_B].zero_()
    assert (balance(params)[1][LORA_A] == 0).all()


def test_binary_search_finds_the_edge_to_its_resolution():
    for edge in (0.03, 0.1, 0.17):
        found = largest(partial(operator.ge, edge), 0.0, 0.2, 12)
        assert edge - 0.2 / 2**12 <= found <= edge
    assert largest(lambda _: False, 0.01, 0.2, 5) == 0.01
    assert largest(lambda _: True, 0.0, 0.2, 5) == pytest.approx(0.2 * (1 - 2**-5))


def test_bayesianization_against_a_dense_scan():
    """The largest σ before the loss has moved by more than ε, found by walking up in small steps."""
    likelihood, support = ClassifierToy(), make_questions(20)
    method = TrainingFreeBayes(NoAdaptation(), 0.01, 0.0, 1.0, num_iterations=12, num_search_samples=5)
    torch.manual_seed(3)
    posterior: Any = method.adapt(likelihood, support)
    mean, unit = balance(clone(likelihood.parameters(META)))
    found = (posterior.distribution.std[LORA_A] / unit[LORA_A]).flatten()
    torch.testing.assert_close(found, found[:1].expand(len(found)))

    torch.manual_seed(3)
    noise = [torch.randn_like(unit[LORA_A]) for _ in range(5)]
    at_mean = mixture_nll(likelihood, [mean], support)

    def change(sigma):
        draws = [{**mean, LORA_A: mean[LORA_A] + sigma * unit[LORA_A] * e} for e in noise]
        return abs(mixture_nll(likelihood, draws, support) - at_mean) / at_mean

    scan = 0.0
    while change(scan + 4e-3) <= 0.01:
        scan += 4e-3
    assert scan > 0.04
    assert found[0].item() == pytest.approx(scan + 2e-3, abs=2.5e-3)


def test_mixture_nll_averages_probabilities_not_logits():
    likelihood, examples = ClassifierToy(), make_questions(5)
    draws = [{LORA_A: 3 * normal(2, 3, seed=i), LORA_B: normal(3, 2, seed=9 + i)} for i in range(3)]
    probs, targets = [], [e.target for e in examples]
    for draw in draws:
        assign(likelihood.parameters(TASK), draw)
        probs.append(likelihood.choice_log_probs(examples)[0].exp())
    expected = -torch.stack(probs).mean(0)[range(5), targets].log().mean()
    assert mixture_nll(likelihood, draws, examples) == pytest.approx(expected.item(), rel=1e-12)


# --- BLoB ---


def test_blob_kl_has_the_right_direction():
    mean, rho, centre = ({"a": normal(2, 3, seed=i)} for i in range(3))
    q = torch.distributions.Normal(mean["a"], rho["a"].square())
    p = torch.distributions.Normal(centre["a"], 0.2)
    expected = torch.distributions.kl_divergence(q, p).sum()
    torch.testing.assert_close(divergence(mean, rho, centre, 0.2), expected, rtol=1e-12, atol=0)
    assert not torch.isclose(torch.distributions.kl_divergence(p, q).sum(), expected)


@pytest.mark.parametrize("length", [1, 2, 7, 60])
def test_blob_kl_schedule_sums_to_one_each_epoch_and_doubles(length):
    weights = [kl_weight(step, length) for step in range(2 * length)]
    assert math.fsum(weights[:length]) == pytest.approx(1, rel=1e-14)
    assert weights[:length] == weights[length:]
    assert all(b / a == pytest.approx(2) for a, b in itertools.pairwise(weights[:length]))
    # with the denominator of the code it is the published π_i = 2^i / (2^(M+1) - 1)
    as_coded = 2**length / (2 ** (length + 1) - 1)
    assert weights[length - 1] * (2 ** (length + 1) - 2) / (2 ** (length + 1) - 1) == pytest.approx(as_coded)


def test_blob_schedule_survives_long_epochs():
    length = schedule_length(5000, 4, 8.0)
    assert length == int(100 * 5000 ** (math.pi / 8) / 4)
    assert kl_weight(length - 1, length) == pytest.approx(0.5)
    assert kl_weight(0, 3000) == 0.0


def test_flipout_has_the_moments_of_dense_sampling():
    """Each example's own A is exactly N(M, Ω²) elementwise, and two examples that share E are uncorrelated."""
    mean, rho = {"a": normal(2, 3, seed=0)}, {"a": normal(2, 3, seed=1)}

    def draw():
        noise = torch.randn(2, 3, dtype=torch.float64)
        return {i: perturbed(mean, rho, {"a": flip(noise)})["a"] for i in (0, 1)}

    torch.manual_seed(0)
    centre, found = moments_of(draw, 3000)
    std = rho["a"].square().flatten().repeat(2)
    assert ((centre - mean["a"].flatten().repeat(2)).abs() < 5 * std / 3000**0.5).all()
    # products of two examples' elements have a heavier tail than Gaussian ones, hence √3 more error at most
    assert_covariance(found, torch.diag(std.square()), 3000 / 3)


def test_flipout_gradient_is_the_dense_gradient_in_expectation():
    """E over draws of the NLL's gradient in ρ, by Flipout and by one dense draw a batch."""
    likelihood, batch = ClassifierToy(features=2, rank=1), make_questions(2, features=2)
    theta = clone(likelihood.parameters(META))
    gradients = {}
    for kind in ("flipout", "shared"):
        torch.manual_seed(1)
        rows = []
        for _ in range(300):
            mean = {name: tensor.clone().requires_grad_() for name, tensor in theta.items()}
            rho = {LORA_A: torch.full_like(theta[LORA_A], 0.6).requires_grad_()}
            noise = torch.randn_like(theta[LORA_A])
            if kind == "flipout":
                for example in batch:
                    backpropagate_nll(likelihood, perturbed(mean, rho, {LORA_A: flip(noise)}), [example], 1 / 2)
            else:
                backpropagate_nll(likelihood, perturbed(mean, rho, {LORA_A: noise}), batch)
            rows.append(torch.cat([rho[LORA_A].grad.flatten(), mean[LORA_B].grad.flatten()]))
        gradients[kind] = torch.stack(rows)
    error = torch.stack([g.var(0) / len(g) for g in gradients.values()]).sum(0).sqrt()
    assert ((gradients["flipout"].mean(0) - gradients["shared"].mean(0)).abs() < 4.5 * error).all()


def test_backpropagating_through_the_door_is_the_chain_rule():
    likelihood, examples = ClassifierToy(), make_questions(4)
    mean, rho, noise = (
        normal(2, 3, seed=0).requires_grad_(),
        normal(2, 3, seed=1).requires_grad_(),
        normal(2, 3, seed=2),
    )
    B = normal(3, 2, seed=3).requires_grad_()
    draw = perturbed({LORA_A: mean, LORA_B: B}, {LORA_A: rho}, {LORA_A: noise})
    value = backpropagate_nll(likelihood, draw, examples, weight=0.7)
    leaves = [mean, rho, B]
    targets = torch.tensor([example.target for example in examples])
    logits = likelihood.logits(examples, {LORA_A: mean + rho.square() * noise, LORA_B: B})
    nll = torch.nn.functional.cross_entropy(logits, targets)
    assert value == pytest.approx(nll.item())
    for leaf, expected in zip(leaves, torch.autograd.grad(0.7 * nll, leaves), strict=True):
        torch.testing.assert_close(leaf.grad, expected, rtol=1e-10, atol=1e-13)


def test_blob_without_data_gradient_falls_to_its_prior():
    """Many steps on the KL alone end at the prior, from either side."""
    likelihood, support = ClassifierToy(), make_questions(40)  # of which an epoch of the KL takes ten steps
    method = Blob(InnerLoop(120, 1e-12), kl_learning_rate=0.03, flipout=False)
    method_meta = Blob(InnerLoop(120, 1e-12), 0.3, "meta", 0.8, 0.03, flipout=False)
    for blob, centre, std in (
        (method, torch.zeros(2, 3, dtype=torch.float64), 0.2),
        (method_meta, likelihood.parameters(META)[LORA_A].detach(), 0.3),
    ):
        found: Any = blob.adapt(likelihood, support).distribution
        torch.testing.assert_close(found.std[LORA_A], torch.full_like(centre, std), rtol=0, atol=1e-3)
        torch.testing.assert_close(found.mean[LORA_A], centre, rtol=0, atol=1e-3)
        assert set(found.std) == {LORA_A}, "B is a point"


def test_blob_learns_the_labels():
    likelihood, support = ClassifierToy(), make_questions(8)
    before = mixture_nll(likelihood, [clone(likelihood.parameters(META))], support)
    posterior: Any = Blob(InnerLoop(30, 0.1)).adapt(likelihood, support)
    assert mixture_nll(likelihood, [posterior.distribution.mean], support) < 0.8 * before


# --- what they share; traps ---


def test_noise_differs_between_tensors():
    same = torch.zeros(2, 3, dtype=torch.float64)
    std = torch.ones_like(same)
    for distribution in (
        DiagonalGaussian({"a": same, "b": same}, {"a": std, "b": std}),
        SwagGaussian({"a": same, "b": same}, {"a": std, "b": std}, {}),
    ):
        torch.manual_seed(0)
        _, found = moments_of(distribution.draw, 2000)
        assert_covariance(found, torch.eye(12, dtype=torch.float64), 2000)


@pytest.mark.parametrize(
    "adaptation",
    [Swag(InnerLoop(8, 0.05), start=2), TrainingFreeBayes(GradientAdaptation()), Blob(InnerLoop(5))],
    ids=["swag", "tfb", "blob"],
)
def test_posterior_owns_its_tensors_and_predicts_without_dropout(adaptation):
    likelihood, support = ClassifierToy(dropout=0.5), make_questions(6)
    posterior: Any = adaptation.adapt(likelihood, support)
    assert isinstance(posterior, WeightPosterior)
    torch.manual_seed(0)
    first = posterior.predict(support, 3)
    for tensor in likelihood.parameters(TASK).values():
        tensor.data.fill_(7.0)
    torch.manual_seed(0)
    assert torch.equal(posterior.predict(support, 3), first)
    assert not torch.equal(first[0], first[1])
    assert torch.equal(posterior.predict(support, 0), posterior.predict(support, 0))


@pytest.mark.parametrize("name", ["laplace", "swag", "blob", "tfb", "bayesian-lora"])
def test_rows_start_from_any_meta_learner(name):
    starts = {"none": type(None), "multitask": MultiTask, "reptile": Reptile}
    for start, kind in starts.items():
        assert type(build_method(name, start=start).meta_learner) is kind
    with pytest.raises(AbmllError, match="Did you mean 'reptile'"):
        build_method(name, start="reptil")


@pytest.mark.parametrize("name", ["laplace", "swag", "blob", "tfb", "bayesian-lora"])
def test_the_outer_rate_is_that_of_the_meta_learner_it_starts_from(name):
    assert build_method(name).outer == build_method("multitask").outer
    given = build_method(name, outer_learning_rate=0.02)
    assert given.outer == build_method("multitask", outer_learning_rate=0.02).outer
    reptile = build_method(name, start="reptile", outer_learning_rate=0.3).outer
    assert reptile == build_method("reptile", outer_learning_rate=0.3).outer
    with pytest.raises(AbmllError, match=r'outer_learning_rate=0.3 has no effect with start="none"'):
        build_method(name, start="none", outer_learning_rate=0.3)


def test_wrong_options_are_told():
    with pytest.raises(AbmllError, match="min_sigma < max_sigma"):
        TrainingFreeBayes(min_sigma=0.3)
    with pytest.raises(AbmllError, match="prior_std, initial_std and gamma must be above 0"):
        Blob(prior_std=0.0)
