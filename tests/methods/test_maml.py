"""MAML, first order and exact, on a quadratic where both are known in closed form, and against finite differences."""

from __future__ import annotations

import pytest
import torch

from abmll.core.errors import AbmllError
from abmll.core.params import clone
from abmll.core.types import META, TASK, FunctionalLikelihood
from abmll.methods.fomaml import Fomaml
from abmll.methods.maml import Maml
from abmll.methods.parts.inner import InnerLoop
from abmll.methods.parts.objective import Objective
from tests.toy import GaussianToy, ToyEpisodes, observation

NOISE, STEPS, RATE = 0.5, 4, 0.07
INNER = InnerLoop(STEPS, RATE, "sgd")


class CurvedToy(GaussianToy):
    """Not a quadratic: the NLL grows like the fourth power, so its Hessian changes on the way and with the batch."""

    def terms(self, examples, **options):
        return _cubed(super().terms(examples, **options), self._params[TASK]["mean"])


class _cubed:
    def __init__(self, context, mean):
        self.context, self.mean = context, mean

    def __enter__(self):
        terms = self.context.__enter__()
        return terms._replace(nll=terms.nll + 0.1 * terms.nll.square() + self.mean.sin().prod())

    def __exit__(self, *error):
        return self.context.__exit__(*error)


def mean_of(examples):
    return torch.stack([observation(example.prompt) for example in examples]).mean(0)


def meta_gradient(learner, likelihood, episode):
    learner.meta_gradient(likelihood, episode)
    return {name: tensor.grad for name, tensor in likelihood.parameters(META).items()}


def test_fomaml_is_the_query_gradient_where_the_inner_loop_ends():
    likelihood, episode = GaussianToy(gaussian=False), ToyEpisodes()[1]
    theta = likelihood.parameters(META)["mean"].detach().clone()
    phi = mean_of(episode.support) + (1 - RATE / NOISE) ** STEPS * (theta - mean_of(episode.support))
    expected = (phi - mean_of(episode.query)) / NOISE
    actual = meta_gradient(Fomaml(INNER), likelihood, episode)["mean"]
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-13)


def test_maml_on_a_quadratic_multiplies_that_by_the_contraction():
    """Each step is φ - α H (φ - ȳ) with H = I/s², so dφ_K/dθ = (I - α H)^K."""
    likelihood, episode = GaussianToy(gaussian=False), ToyEpisodes()[1]
    first_order = meta_gradient(Fomaml(INNER), GaussianToy(gaussian=False), episode)["mean"]
    actual = meta_gradient(Maml(INNER), likelihood, episode)["mean"]
    torch.testing.assert_close(actual, (1 - RATE / NOISE) ** STEPS * first_order, rtol=1e-12, atol=1e-13)


def test_maml_is_the_derivative_of_the_whole_inner_loop():
    """Central differences of the query loss after the in-place inner loop that adaptation itself runs."""
    inner = InnerLoop(STEPS, RATE, "sgd", batch_size=3)
    likelihood, episode = CurvedToy(gaussian=False), ToyEpisodes(support_size=5)[2]
    actual = meta_gradient(Maml(inner), likelihood, episode)["mean"]
    first_order = meta_gradient(Fomaml(inner), CurvedToy(gaussian=False), episode)["mean"]
    theta = likelihood.parameters(META)["mean"]

    def query_loss(index, delta):
        with torch.no_grad():
            theta[index] += delta
        inner.run(likelihood, episode.support)
        with torch.no_grad(), likelihood.terms(episode.query) as terms:
            theta[index] -= delta
            return terms.nll.mean().item()

    step = 1e-5
    numeric = [(query_loss(i, step) - query_loss(i, -step)) / (2 * step) for i in range(3)]
    torch.testing.assert_close(actual, torch.tensor(numeric, dtype=torch.float64), rtol=1e-8, atol=1e-9)
    assert (actual - first_order).abs().max() > 0.1 * actual.abs().max(), "first order would pass this test too"


def test_maml_and_its_adaptation_take_the_same_steps():
    likelihood, episode = CurvedToy(gaussian=False), ToyEpisodes()[0]
    inner_loss = Maml(INNER).meta_gradient(likelihood, episode)["inner_loss"]
    assert INNER.run(likelihood, episode.support) == pytest.approx(inner_loss, rel=1e-14)


def test_maml_leaves_both_roles_as_they_were():
    likelihood = GaussianToy(gaussian=False)
    before = {role: clone(likelihood.parameters(role)) for role in (META, TASK)}
    Maml(INNER).meta_gradient(likelihood, ToyEpisodes()[0])
    for role, params in before.items():
        assert all(torch.equal(tensor, likelihood.parameters(role)[name]) for name, tensor in params.items())
    assert all(tensor.grad is None for tensor in likelihood.parameters(TASK).values())


def test_a_likelihood_with_one_door_is_refused_with_the_cure():
    class OneDoor:
        def __init__(self, toy):
            self.terms, self.parameters = toy.terms, toy.parameters
            self.choice_log_probs, self.choice_graph = toy.choice_log_probs, toy.choice_graph

    assert isinstance(GaussianToy(), FunctionalLikelihood)
    with pytest.raises(AbmllError, match=r"OneDoor has no `at`.*first-order method \(fomaml"):
        Maml(INNER).meta_gradient(OneDoor(GaussianToy(gaussian=False)), ToyEpisodes()[0])


def test_an_adaptive_inner_step_is_refused():
    with pytest.raises(AbmllError, match="needs plain gradient steps, not 'adamw'"):
        Maml(InnerLoop(), Objective())
