"""Ensembles average probabilities, over members that truly differ, and leave θ where it was."""

from __future__ import annotations

import pytest
import torch

from abmll.core.errors import AbmllError
from abmll.core.params import clone
from abmll.core.types import META
from abmll.evaluation.calibration import mixture
from abmll.methods.ensemble import Ensemble
from abmll.methods.parts.gradient import GradientAdaptation
from abmll.methods.parts.inner import InnerLoop
from tests.toy import GaussianToy, ToyEpisodes

MEMBER = GradientAdaptation(InnerLoop(2, 0.02, "sgd"))


def test_members_are_averaged_in_probability_not_in_logits():
    likelihood, episode = GaussianToy(gaussian=False, noise_variance=20.0), ToyEpisodes()[0]
    torch.manual_seed(0)
    posterior = Ensemble(MEMBER, 3).adapt(likelihood, episode.support)
    predicted = mixture(posterior.predict(episode.query, 7)).exp()
    members = torch.stack([member.predict(episode.query, 1)[0] for member in posterior.members])
    torch.testing.assert_close(predicted, members.exp().mean(0), rtol=1e-12, atol=1e-15)
    assert (predicted - members.mean(0).softmax(-1)).abs().max() > 1e-3, "the logits' mean would pass this test too"


def test_members_weigh_the_same_when_they_sample():
    likelihood, episode = GaussianToy(), ToyEpisodes()[0]
    posterior = Ensemble(GradientAdaptation(MEMBER.inner, sample=True), 3).adapt(likelihood, episode.support)
    assert posterior.predict(episode.query, 10).shape[0] == 9  # three each
    assert posterior.predict(episode.query, 2).shape[0] == 3  # one each at least


def test_starts_keep_each_tensors_size_and_its_zeros():
    generator = torch.Generator().manual_seed(0)
    theta = {"A": 3.0 * torch.randn(200, 50, generator=generator), "B": torch.zeros(40, 8)}
    torch.manual_seed(1)
    first, second = Ensemble(noise=2.0)._start(theta), Ensemble(noise=2.0)._start(theta)
    assert torch.equal(first["B"], theta["B"])
    assert first["A"].std().item() == pytest.approx(3.0, rel=0.03)
    # θ's share of each start is 1/√5 of it, so two starts correlate by 1/5
    correlation = torch.corrcoef(torch.stack([first["A"].flatten(), second["A"].flatten()]))[0, 1].item()
    assert correlation == pytest.approx(0.2, abs=0.04)


def test_without_noise_members_differ_by_the_order_of_their_data_alone():
    likelihood, episode = GaussianToy(gaussian=False), ToyEpisodes(support_size=6)[0]
    inner = InnerLoop(2, 0.1, "sgd", batch_size=2)
    torch.manual_seed(0)
    means = [
        m.state_dict()["mean"]
        for m in Ensemble(GradientAdaptation(inner), 3, 0.0).adapt(likelihood, episode.support).members
    ]
    assert not torch.equal(means[0], means[1])
    full = Ensemble(MEMBER, 3, 0.0).adapt(likelihood, episode.support).members
    torch.testing.assert_close(full[0].state_dict()["mean"], full[1].state_dict()["mean"], rtol=1e-12, atol=0)


def test_bootstrap_repeats_rows_and_a_permutation_does_not():
    rows = ToyEpisodes(support_size=20)[0].support
    torch.manual_seed(0)
    assert sorted(Ensemble()._order(rows)) == sorted(rows)
    sampled = Ensemble(bootstrap=True)._order(rows)
    assert len(sampled) == 20
    assert len(set(sampled)) < 20
    assert set(sampled) < set(rows)


def test_meta_comes_back_bit_by_bit_even_from_a_failure():
    likelihood = GaussianToy(gaussian=False)
    before = clone(likelihood.parameters(META))
    with pytest.raises(AbmllError, match="support set is empty"):
        Ensemble(MEMBER, 3).adapt(likelihood, [])
    assert torch.equal(before["mean"], likelihood.parameters(META)["mean"])


@pytest.mark.parametrize("options", [{"num_members": 0}, {"noise": -1.0}])
def test_impossible_ensembles_are_refused(options):
    with pytest.raises(AbmllError, match="num_members must be at least 1 and noise at least 0"):
        Ensemble(**options)
