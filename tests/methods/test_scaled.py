"""The posterior over a scale, against brute force, and the rows that have one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from abmll.core.errors import AbmllError
from abmll.core.types import Adaptation, Example, Posterior
from abmll.methods import METHODS, build_method
from abmll.methods.parts.scaled import (
    CrossFittedScale,
    ScaledPosterior,
    cross_fitted,
    folds_of,
    grid,
    scale_posterior,
    scaled,
)
from tests.toy import ToyEpisodes, toy_for

SCALED = {"abmll", "abmll-adam", "abmll-natural"}
"""Those that have a scale of their own."""


def random_predictions(samples=2, rows=9, choices=3, seed=0, temper=1.0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(samples, rows, choices, generator=generator, dtype=torch.float64) * temper
    targets = torch.randint(choices, (rows,), generator=generator)
    return logits.log_softmax(-1), targets


def density(log_probs, targets, mean, std):
    """The unnormalised posterior, spelled out row by row."""

    def of(a):
        total = -0.5 * ((a - mean) / std) ** 2
        for row, target in enumerate(targets.tolist()):
            mixture = 0.0
            for sample in log_probs:
                powers = [math.exp(a * float(value)) for value in sample[row]]
                mixture += powers[target] / sum(powers)
            total += math.log(mixture / len(log_probs))
        return math.exp(total)

    return of


@pytest.mark.parametrize(("mean", "std"), [(0.7, 0.4), (1.0, 1.0), (0.3, 0.2)])
def test_the_posterior_is_what_quadrature_gives(mean, std):
    log_probs, targets = random_predictions()
    weights = scale_posterior(log_probs, targets, mean, std)
    unnormalised = density(log_probs, targets, mean, std)
    places = np.linspace(-6, 8, 1401)
    values = np.array([unnormalised(a) for a in places])
    expected = np.trapezoid(places * values, places) / np.trapezoid(values, places)
    assert float(weights @ grid()) == pytest.approx(expected, abs=2e-3)


def test_without_rows_the_posterior_is_the_prior():
    weights = scale_posterior(torch.empty(1, 0, 1), torch.empty(0, dtype=torch.long), 0.7, 0.4)
    assert float(weights @ grid()) == pytest.approx(0.7, abs=1e-3)
    assert float(weights @ (grid() - 0.7).square()) == pytest.approx(0.16, rel=1e-2)


def test_the_posterior_contracts_at_the_rate_of_the_rows():
    # The same rows again and again: the likelihood's curvature, hence 1/variance, grows in proportion.
    log_probs, targets = random_predictions(samples=1, rows=40, temper=2.0)

    def precision(times):
        weights = scale_posterior(log_probs.repeat(1, times, 1), targets.repeat(times), 0.7, 1.0)
        mean = weights @ grid()
        return 1 / float(weights @ (grid() - mean).square()) - 1.0  # less the prior's

    assert precision(4) / precision(1) == pytest.approx(4, rel=0.1)
    assert precision(16) / precision(4) == pytest.approx(4, rel=0.05)


def test_scaling_keeps_absent_choices_absent_and_knows_its_fixed_points():
    log_probs = torch.tensor([[math.log(0.2), math.log(0.8), -math.inf]], dtype=torch.float64)
    torch.testing.assert_close(scaled(log_probs, 1.0), log_probs)
    torch.testing.assert_close(scaled(log_probs, 0.0).exp(), torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(scaled(log_probs, -1.0).exp(), torch.tensor([[0.8, 0.2, 0.0]], dtype=torch.float64))


def test_folds_hold_every_label_evenly_even_where_labels_take_turns():
    folds = folds_of([0, 1] * 8, 2)
    assert sorted(place for fold in folds for place in fold) == list(range(16))
    assert [[place % 2 for place in fold].count(0) for fold in folds] == [4, 4]
    assert folds_of([0], 2) == [[0]]


class Remembering(Adaptation):
    """Adapts by remembering what it saw; refuses to predict a row that it has seen."""

    def adapt(self, likelihood, support):
        seen = {example.id for example in support}

        class Seen:
            def predict(self, query, num_samples):
                assert not seen & {example.id for example in query}
                return torch.tensor([[[math.log(len(seen)), 0.0] for _ in query]]).log_softmax(-1)

        return Seen()

    def restore(self, likelihood, state):
        raise NotImplementedError


def test_no_row_is_predicted_by_what_has_seen_it():
    rows = [Example("", ("a", "b"), index % 2, id=str(index)) for index in range(5)]
    out = cross_fitted(Remembering(), None, rows, 2, 1)
    assert out.shape == (1, 5, 2)
    assert set(out[0, :, 0].exp().mul(1000).round().tolist()) == {667.0, 750.0}  # 2 rows seen, or 3


class Fixed(Posterior):
    def __init__(self, log_probs):
        self.log_probs = log_probs

    def predict(self, query, num_samples):
        return self.log_probs

    def state_dict(self):
        return {}

    def mean(self):
        return None


def test_the_samples_average_to_the_integral_over_the_posterior():
    log_probs, targets = random_predictions(samples=1, rows=12)
    weights = scale_posterior(log_probs, targets, 0.7, 0.5)
    exact = (weights[:, None, None] * scaled(log_probs, grid()[:, None, None]).exp()).sum(0)
    predicted = ScaledPosterior(Fixed(log_probs), weights).predict([], 16)
    assert predicted.shape == (16, 12, 3)
    torch.testing.assert_close(predicted.exp().mean(0), exact, atol=2e-3, rtol=0)


@pytest.mark.parametrize("members", [1, 3, 10])
def test_every_inner_sample_counts_alike(members):
    log_probs, targets = random_predictions(samples=members, rows=4)
    weights = scale_posterior(log_probs, targets, 0.7, 0.5)
    predicted = ScaledPosterior(Fixed(log_probs), weights).predict([], 10)
    assert len(predicted) % members == 0
    assert len(predicted) >= 10
    torch.testing.assert_close(
        ScaledPosterior(Fixed(log_probs), weights).scales(10).mean(), weights @ grid(), atol=1e-9, rtol=0
    )


def test_a_scale_that_the_rows_forbid_is_given_up():
    # Sure and wrong in every second row: no more than a coin, so the best scale is 0.
    log_probs = torch.tensor([[[-0.01, -5.0], [-5.0, -0.01]]] * 1, dtype=torch.float64).repeat(1, 16, 1)
    targets = torch.tensor([0, 1, 1, 0] * 8)
    weights = scale_posterior(log_probs, targets, 0.7, 0.4)
    assert abs(float(weights @ grid())) < 0.1


def test_every_method_has_a_row_with_a_scale():
    for name in SCALED:
        with pytest.raises(AbmllError, match=f"{name} has a scale of its own"):
            build_method(f"{name}+scale")
    for name in METHODS.keys() - SCALED:
        plain, with_scale = build_method(name), build_method(f"{name}+scale", scale_mean=0.5)
        assert with_scale.adaptation == CrossFittedScale(plain.adaptation, 0.5), name
        assert repr(with_scale.meta_learner) == repr(plain.meta_learner)
    with pytest.raises(AbmllError, match=r'"lora\+scales": no such method.*NAME\+scale'):
        build_method("lora+scales")
    with pytest.raises(AbmllError, match="learning_rate"):
        build_method("lora+scale", learning_rat=1.0)


@pytest.mark.parametrize("options", [{"mean": 3.0}, {"std": 0.0}, {"std": 2.0}, {"folds": 1}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(AbmllError, match="scale: its prior needs"):
        CrossFittedScale(None, **options)


def test_one_label_leaves_the_prior_and_costs_one_adaptation():
    method = build_method("lora+scale")
    likelihood = toy_for(method.adapter)
    episode = ToyEpisodes(support_size=1, query_size=2)[0]
    posterior = method.adaptation.adapt(likelihood, episode.support)
    assert float(posterior.weights @ grid()) == pytest.approx(0.7, abs=1e-3)  # type: ignore[attr-defined]
