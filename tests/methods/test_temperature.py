"""The temperature against a fine grid, and that nothing but the held-back rows ever decides it."""

from __future__ import annotations

import math

import pytest
import torch

from abmll.core.errors import AbmllError
from abmll.methods.parts.gradient import GradientAdaptation
from abmll.methods.parts.inner import InnerLoop
from abmll.methods.temperature import TemperatureScaled, fit_temperature, scale
from tests.toy import GaussianToy, ToyEpisodes


def predictions(*, samples, overconfidence, count=60, seed=0):
    """(log_probs, targets) where targets are drawn from softmax(f) and the log-probabilities are those of c·f."""
    generator = torch.Generator().manual_seed(seed)
    logits = 1.5 * torch.randn(count, 4, generator=generator, dtype=torch.float64)
    targets = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    noise = 0.5 * torch.randn(samples, count, 4, generator=generator, dtype=torch.float64)
    return (overconfidence * (logits + noise * (samples > 1))).log_softmax(-1), targets


def nll(log_probs, targets, temperature):
    """Summed NLL of the mixture of tempered samples, in probabilities."""
    probs = torch.exp(log_probs / temperature)
    probs = (probs / probs.sum(-1, keepdim=True)).mean(0)
    return -probs[torch.arange(len(targets)), targets].log().sum().item()


@pytest.mark.parametrize("samples", [1, 5])
@pytest.mark.parametrize("overconfidence", [0.2, 1.0, 4.0])
@pytest.mark.parametrize("prior_std", [None, 0.3])
def test_fit_is_the_best_of_a_fine_grid(samples, overconfidence, prior_std):
    log_probs, targets = predictions(samples=samples, overconfidence=overconfidence)
    fitted = fit_temperature(log_probs, targets, prior_std)

    def objective(temperature):
        prior = 0.0 if prior_std is None else math.log(temperature) ** 2 / (2 * prior_std**2)
        return nll(log_probs, targets, temperature) + prior

    grid = torch.logspace(-1.3, 1.3, 1001, dtype=torch.float64).tolist()
    best = min(grid, key=objective)
    assert objective(fitted) <= objective(best) + 1e-12
    assert math.log(fitted) == pytest.approx(math.log(best), abs=6e-3)
    if prior_std is None and samples == 1:
        assert fitted == pytest.approx(overconfidence, rel=0.35)


def test_all_right_asks_for_the_lowest_temperature_and_the_prior_for_a_moderate_one():
    log_probs, targets = predictions(samples=1, overconfidence=1.0)
    right = log_probs[0].argmax(-1)
    assert fit_temperature(log_probs, right) == pytest.approx(1 / 20, rel=1e-6)
    assert 0.1 < fit_temperature(log_probs[:, :4], right[:4], prior_std=1.0) < 0.9
    flat = torch.full((1, 5, 2), 0.5, dtype=torch.float64).log()
    assert fit_temperature(flat, targets[:5] % 2) == 1.0


def test_scaling_tempers_each_sample_and_keeps_absent_choices_absent():
    log_probs = torch.tensor([[[0.7, 0.3, 0.0], [0.2, 0.5, 0.3]], [[0.1, 0.9, 0.0], [0.6, 0.2, 0.2]]]).double().log()
    scaled = scale(log_probs, 2.0).exp()
    root = log_probs.exp().sqrt()
    torch.testing.assert_close(scaled, root / root.sum(-1, keepdim=True), rtol=1e-12, atol=0)
    assert (scaled[:, 0, 2] == 0).all()


class Watcher(GaussianToy):
    """The toy, which notes the rows that it adapts on and is asked about."""

    def __init__(self):
        super().__init__(gaussian=False)
        self.adapted, self.asked = set(), []

    def terms(self, examples, **options):
        self.adapted |= set(examples)
        return super().terms(examples, **options)

    def choice_log_probs(self, examples, **options):
        self.asked.append(set(examples))
        return super().choice_log_probs(examples, **options)


@pytest.mark.parametrize(("size", "held_back"), [(2, 1), (4, 1), (10, 2), (16, 4), (64, 16)])
def test_temperature_is_fitted_on_support_rows_that_the_adaptation_never_saw(size, held_back):
    episode, likelihood = ToyEpisodes(support_size=size)[0], Watcher()
    adaptation = TemperatureScaled(GradientAdaptation(InnerLoop(2, 0.02, "sgd")))
    posterior = adaptation.adapt(likelihood, episode.support)
    (held,) = likelihood.asked
    assert len(held) == held_back
    assert likelihood.adapted | held == set(episode.support)
    assert not likelihood.adapted & held
    before = posterior.temperature
    posterior.predict(episode.query, 1)
    assert posterior.temperature == before


def test_prediction_is_the_inner_posterior_at_that_temperature():
    episode = ToyEpisodes(support_size=8)[1]
    adaptation = TemperatureScaled(GradientAdaptation(InnerLoop(2, 0.02, "sgd")))
    likelihood = GaussianToy(gaussian=False)
    posterior = adaptation.adapt(likelihood, episode.support)
    kept, _ = adaptation.split(episode.support)
    plain = adaptation.adaptation.adapt(likelihood, kept).predict(episode.query, 1)
    torch.testing.assert_close(
        posterior.predict(episode.query, 1), (plain / posterior.temperature).log_softmax(-1), rtol=1e-12, atol=1e-12
    )
    assert posterior.state_dict()["temperature"].item() == posterior.temperature


def test_one_row_is_not_enough_and_says_so():
    with pytest.raises(AbmllError, match=r"the support set has one example\. Give at least two"):
        TemperatureScaled().adapt(GaussianToy(gaussian=False), ToyEpisodes(support_size=1)[0].support)
    with pytest.raises(AbmllError, match="holdback must lie between 0 and 1"):
        TemperatureScaled(holdback=1.0)
