"""Every method against the formula it implements, on the conjugate toy in float64."""

from __future__ import annotations

import pytest
import torch

from abmll.core.errors import AbmllError
from abmll.core.params import reset_task, train_only
from abmll.core.types import META, TASK
from abmll.methods.abmll_output import Abmll
from abmll.methods.fomaml import Fomaml
from abmll.methods.multitask import MultiTask
from abmll.methods.parts.gradient import GradientAdaptation
from abmll.methods.parts.inner import InnerLoop
from abmll.methods.parts.objective import Objective
from abmll.methods.reptile import Reptile
from tests.toy import GaussianToy, ToyEpisodes, make_examples, observation

NOISE = 0.5


def stacked(examples):
    return torch.stack([observation(example.prompt) for example in examples])


def grads(likelihood, role=META):
    return {name: tensor.grad for name, tensor in likelihood.parameters(role).items()}


def test_inner_loop_is_gradient_descent_on_the_quadratic():
    likelihood, episode = GaussianToy(gaussian=False), ToyEpisodes()[0]
    theta = likelihood.parameters(META)["mean"].detach().clone()
    InnerLoop(num_steps=7, learning_rate=0.05, optimizer="sgd").run(likelihood, episode.support)
    # mean NLL = (φ - ȳ)² / 2s² + const, so every step contracts φ - ȳ by 1 - lr / s²
    target = stacked(episode.support).mean(0)
    expected = target + (1 - 0.05 / NOISE) ** 7 * (theta - target)
    torch.testing.assert_close(likelihood.parameters(TASK)["mean"].detach(), expected, rtol=1e-12, atol=0)


def test_minibatches_go_through_the_support_in_order_and_start_over():
    support = make_examples(torch.zeros(2, dtype=torch.float64), 5)
    taken = [[e.id[-1] for e in batch] for batch in InnerLoop(num_steps=4, batch_size=2).batches(support)]
    assert taken == [["0", "1"], ["2", "3"], ["4", "0"], ["1", "2"]]


def test_reptile_gradient_is_theta_minus_phi():
    likelihood, episode = GaussianToy(gaussian=False), ToyEpisodes()[1]
    theta = likelihood.parameters(META)["mean"].detach().clone()
    Reptile(InnerLoop(3, 0.05, "sgd")).meta_gradient(likelihood, episode)
    target = stacked([*episode.support, *episode.query]).mean(0)
    phi = target + (1 - 0.05 / NOISE) ** 3 * (theta - target)
    torch.testing.assert_close(grads(likelihood)["mean"], theta - phi, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("weight", [0.0, 0.4])
def test_fomamls_joint_gradient_adds_the_supports_own_at_theta(weight):
    likelihood, episode = GaussianToy(gaussian=False), ToyEpisodes()[1]
    theta = likelihood.parameters(META)["mean"].detach().clone()
    Fomaml(InnerLoop(3, 0.05, "sgd"), weight).meta_gradient(likelihood, episode)
    support, query = stacked(episode.support).mean(0), stacked(episode.query).mean(0)
    phi = support + (1 - 0.05 / NOISE) ** 3 * (theta - support)
    expected = (phi - query) / NOISE + weight * (theta - support) / NOISE
    torch.testing.assert_close(grads(likelihood)["mean"], expected, rtol=1e-12, atol=1e-14)


def test_multitask_gradient_is_the_pooled_nll_gradient():
    likelihood, episode = GaussianToy(gaussian=False), ToyEpisodes()[2]
    MultiTask().meta_gradient(likelihood, episode)
    theta = likelihood.parameters(META)["mean"].detach()
    expected = (theta - stacked([*episode.support, *episode.query]).mean(0)) / NOISE
    torch.testing.assert_close(grads(likelihood)["mean"], expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("query_gradient", [False, True])
def test_abmll_gradient_is_beta_kl_plus_prior_plus_query_nll(query_gradient):
    beta, gamma = 0.3, 0.07
    likelihood, episode = GaussianToy(expected=True), ToyEpisodes()[3]
    outer = Objective(beta, gamma, "sum", "closed_form", sample=True)
    inner = InnerLoop(4, 0.02, "sgd", objective=Objective(beta, 0.0, "sum", "closed_form", sample=True))
    Abmll(inner, outer, "query", query_gradient).meta_gradient(likelihood, episode)

    phi = {k: v.detach() for k, v in likelihood.parameters(TASK).items()}
    theta = {k: v.detach() for k, v in likelihood.parameters(META).items()}
    precision = (-theta["log_var"]).exp()
    gap, variance = phi["mean"] - theta["mean"], phi["log_var"].exp()
    d_mean = -beta * gap * precision + gamma * theta["mean"]
    # KL: ½ (1 - (σ_φ² + gap²) / σ_θ²) by log σ_θ²; the Gamma(1, b) prior on τ = 1/σ_θ²: b τ by -log σ_θ²
    d_log_var = beta * 0.5 * (1 - (variance + gap.square()) * precision) - gamma * 0.01 * precision
    if query_gradient:
        y = stacked(episode.query)
        d_mean = d_mean + (phi["mean"] - y).sum(0) / NOISE
        d_log_var = d_log_var + len(y) * 0.5 * variance / NOISE
    torch.testing.assert_close(grads(likelihood)["mean"], d_mean, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(grads(likelihood)["log_var"], d_log_var, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("schedule", "betas"),
    [
        ("constant", [0.4, 0.4, 0.4, 0.4, 0.4]),
        ("warmup", [0.0, 0.2, 0.4, 0.4, 0.4]),
        ("decay", [0.4, 0.3, 0.2, 0.1, 0.0]),
    ],
)
def test_the_kl_has_the_weight_of_its_place_in_training(schedule, betas):
    for quarter, beta in enumerate(betas):
        outer = Objective(0.4, 0.0, "sum", kl_schedule=schedule)
        scheduled, plain = GaussianToy(expected=True), GaussianToy(expected=True)
        episode = ToyEpisodes()[3]._replace(progress=quarter / 4)
        inner = InnerLoop(4, 0.02, "sgd")
        Abmll(inner, outer).meta_gradient(scheduled, episode)
        Abmll(inner, Objective(beta, 0.0, "sum")).meta_gradient(plain, episode)
        for name, gradient in grads(plain).items():
            torch.testing.assert_close(grads(scheduled)[name], gradient, rtol=1e-12, atol=1e-15)


def test_an_unknown_schedule_names_the_choices():
    with pytest.raises(AbmllError, match=r"kl_schedule 'warmpu'.*warmup"):
        Objective(kl_schedule="warmpu")  # type: ignore[arg-type]


def test_published_theta_gradient_has_no_nll_path():
    """As published, θ's gradient is exactly that of β·(log q - log p) + prior, by finite differences."""
    beta, gamma = 0.3, 0.07
    likelihood, episode = GaussianToy(), ToyEpisodes(support_size=10)[3]
    objective = Objective(beta, gamma, "sum", "sample", sample=True)
    method = Abmll(InnerLoop(5, 1e-3, batch_size=2, objective=objective), objective, "last_batch", False, True)
    torch.manual_seed(11)
    method.meta_gradient(likelihood, episode)
    actual = {name: grad.clone() for name, grad in grads(likelihood).items()}

    def outer(name, index, delta):
        """The outer objective without its NLL as a function of θ, φ held where the inner loop left it."""
        with torch.no_grad():
            likelihood.parameters(META)[name][index] += delta
            torch.manual_seed(11)
            for _ in range(5):  # the inner loop's draws
                torch.randn(3, dtype=torch.float64)
            with likelihood.terms(episode.support[-2:], sample=True, kl="sample", hyper_prior=True) as terms:
                value = beta * terms.kl + gamma * terms.hyper
            likelihood.parameters(META)[name][index] -= delta
        return value.item()

    step = 1e-6
    for name, gradient in actual.items():
        for index in range(3):
            numeric = (outer(name, index, step) - outer(name, index, -step)) / (2 * step)
            assert gradient[index].item() == pytest.approx(numeric, rel=1e-7, abs=1e-8)


def test_minimising_nll_plus_kl_reaches_the_conjugate_posterior():
    likelihood = GaussianToy(expected=True)
    support = make_examples(torch.tensor([0.7, -1.1, 2.0], dtype=torch.float64), 6)
    reset_task(likelihood)
    train_only(likelihood, TASK)
    optimizer = torch.optim.LBFGS(
        likelihood.parameters(TASK).values(),
        max_iter=500,
        tolerance_grad=1e-12,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )
    objective = Objective(1.0, reduction="sum", sample=True)

    def closure():
        optimizer.zero_grad()
        with likelihood.terms(support, sample=True, kl=objective.kl) as terms:
            loss = objective(terms)
            loss.backward()
        return loss

    optimizer.step(closure)
    theta = likelihood.parameters(META)
    prior_precision = (-theta["log_var"]).exp()
    precision = prior_precision + len(support) / NOISE
    mean = (prior_precision * theta["mean"] + stacked(support).sum(0) / NOISE) / precision
    phi = likelihood.parameters(TASK)
    torch.testing.assert_close(phi["mean"].detach(), mean.detach(), rtol=0, atol=1e-6)
    torch.testing.assert_close(phi["log_var"].detach(), -precision.detach().log(), rtol=0, atol=1e-6)


def test_meta_training_recovers_the_population_the_tasks_come_from():
    """θ is learned from many tasks: its mean must come to the tasks' mean, where adaptation starts best."""
    likelihood = GaussianToy(expected=True)
    episodes = ToyEpisodes(num_tasks=40, support_size=8, query_size=8)
    objective = Objective(0.1, sample=True)
    learner = Abmll(InnerLoop(5, 0.05, objective=objective), objective)
    theta = likelihood.parameters(META)
    optimizer = torch.optim.AdamW(theta.values(), lr=0.15, weight_decay=0.0)
    for index in range(60):
        optimizer.zero_grad()
        learner.meta_gradient(likelihood, episodes[index])
        optimizer.step()
    population = torch.stack([stacked([*episodes[i].support, *episodes[i].query]).mean(0) for i in range(40)]).mean(0)
    assert (theta["mean"].detach() - population).abs().max() < 0.35
    posterior = GradientAdaptation(learner.inner, sample=True).adapt(likelihood, episodes[3].support)
    assert posterior.predict(episodes[3].query, 5).shape == (5, 8, 2)
