"""MC dropout: masks where a draw is asked for, in training and at prediction, and nowhere else."""

from __future__ import annotations

from typing import Any

import torch

from abmll.core.types import META, TASK
from abmll.methods import build_method
from abmll.methods.parts.gradient import GradientAdaptation
from abmll.methods.parts.inner import InnerLoop
from tests.toy import ToyEpisodes, toy_for


def test_every_sample_has_a_mask_of_its_own():
    method = build_method("mc-dropout", dropout=0.5)
    likelihood, episode = toy_for(method.adapter, dim=8), ToyEpisodes(8)[0]
    torch.manual_seed(0)
    predicted = method.adaptation.adapt(likelihood, episode.support).predict(episode.query, 20)
    assert predicted.shape == (20, 4, 2)
    assert len({tuple(sample.flatten().tolist()) for sample in predicted}) == 20


def test_the_inner_loop_steps_on_masked_parameters():
    """A dropped element has gradient 0 and a kept one is scaled by 1/(1 - p): one plain step shows both."""
    method = build_method("mc-dropout", dropout=0.5)
    likelihood, episode = toy_for(method.adapter, dim=8), ToyEpisodes(8)[0]
    theta = likelihood.parameters(META)["mean"].detach().clone()
    adaptation: Any = method.adaptation
    objective = adaptation.inner.objective
    torch.manual_seed(3)
    InnerLoop(1, 0.01, "sgd", objective=objective).run(likelihood, episode.support)
    torch.manual_seed(3)
    mask = torch.nn.functional.dropout(torch.ones(8, dtype=torch.float64), 0.5)
    assert {0.0, 2.0} == set(mask.tolist())
    target = torch.stack([torch.tensor([float(v) for v in e.prompt.split()]).double() for e in episode.support]).mean(0)
    expected = theta - 0.01 * mask * (mask * theta - target) / 0.5
    torch.testing.assert_close(likelihood.parameters(TASK)["mean"].detach(), expected, rtol=1e-6, atol=1e-7)


def test_the_mean_is_taken_without_dropout():
    method = build_method("mc-dropout", dropout=0.5)
    likelihood, episode = toy_for(method.adapter, dim=8), ToyEpisodes(8)[0]
    posterior = GradientAdaptation(InnerLoop(2, 0.01, "sgd")).adapt(likelihood, episode.support)
    assert torch.equal(posterior.predict(episode.query, 5), posterior.predict(episode.query, 5))
