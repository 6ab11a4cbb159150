"""What every row of the method table says that it sends through the model, against what goes through the toy."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import pytest
import torch

from abmll.core.passes import Passes
from abmll.core.types import TASK
from abmll.methods import METHODS, build_method
from abmll.methods.parts.no_model import needs_model
from abmll.methods.parts.passes import adaptation_passes, episode_passes, query_passes, training_passes
from tests.methods.short import FEWER, short
from tests.toy import ToyEpisodes, toy_for

SUPPORT, QUERY = 7, 5
UNROLLED = {"maml", "abml"}
"""Whose inner steps are differentiated through, and stand for three passes each: tests/test_speed.py times them."""


class Counting:
    """A likelihood that counts the examples of every pass: with a way back to φ, or forward alone."""

    def __init__(self, likelihood):
        self._likelihood = likelihood
        self.trained = self.predicted = 0.0

    def __getattr__(self, name):
        return getattr(self._likelihood, name)

    @contextmanager
    def terms(self, examples, **requested):
        back = torch.is_grad_enabled() and any(t.requires_grad for t in self._likelihood.parameters(TASK).values())
        self._count(len(examples), back)
        with self._likelihood.terms(examples, **requested) as terms:
            yield terms

    @contextmanager
    def choice_graph(self, examples):
        self._count(len(examples), True)
        with self._likelihood.choice_graph(examples) as log_probs:
            yield log_probs

    @contextmanager
    def features(self, examples):
        back = torch.is_grad_enabled() and any(t.requires_grad for t in self._likelihood.parameters(TASK).values())
        self._count(len(examples), back)
        with self._likelihood.features(examples) as features:
            yield features

    def choice_log_probs(self, examples, *, num_samples=0):
        self._count(len(examples) * max(1, num_samples), False)
        return self._likelihood.choice_log_probs(examples, num_samples=num_samples)

    def _count(self, count, back):
        self.trained += count * back
        self.predicted += count * (not back)

    def since(self, before):
        return Passes(self.trained - before.trained, self.predicted - before.predicted)

    @property
    def now(self):
        return Passes(self.trained, self.predicted)


@pytest.fixture(params=[*METHODS, "lora+scale", "laplace+scale", "arrow+scale", "lora+icl", "abmll+metaicl"])
def method(request):
    if not needs_model(method := short(request.param)):
        pytest.skip("asks no model")
    return method


@pytest.fixture
def episode():
    return ToyEpisodes(support_size=SUPPORT, query_size=QUERY)[0]


@pytest.mark.parametrize("num_samples", [0, 11])
def test_adapting_and_predicting(method, episode, num_samples):
    likelihood = Counting(toy_for(method.adapter))
    posterior = method.adaptation.adapt(likelihood, episode.support)
    assert likelihood.now == adaptation_passes(method.adaptation, SUPPORT)
    before = likelihood.now
    posterior.predict(episode.query, num_samples)
    assert likelihood.since(before) == query_passes(method.adaptation, num_samples).times(QUERY)


@pytest.mark.parametrize("progress", [0.0, 0.49, 0.5, 1.0])
def test_an_episode_of_meta_training(method, episode, progress, request):
    if method.meta_learner is None:
        pytest.skip("learns nothing across tasks")
    likelihood = Counting(toy_for(method.adapter))
    method.meta_learner.meta_gradient(likelihood, episode._replace(progress=progress))
    said = method.meta_learner.passes(SUPPORT, QUERY, progress)
    if request.node.callspec.params["method"] in UNROLLED:
        steps = FEWER["num_steps"] * SUPPORT
        said = said.plus(Passes(-2.0 * steps))
    assert likelihood.now == said


def test_batches_count_as_they_are_taken():
    for name, options in (
        ("reptile", {"batch_size": 3}),
        ("abmll-adam", {"batch_size": 2}),
        ("abmll-natural", {"batch_size": 2}),
    ):
        method = build_method(name, num_steps=4, **options)
        likelihood = Counting(toy_for(method.adapter))
        learner: Any = method.meta_learner
        learner.meta_gradient(likelihood, ToyEpisodes(support_size=SUPPORT, query_size=QUERY)[1])
        assert likelihood.now == learner.passes(SUPPORT, QUERY, 1.0)


def test_a_whole_training_knows_its_warm_up_and_a_stranger_is_taken_for_one_pass():
    short = SUPPORT + QUERY
    for name, long in (("abmll-adam", 6 * SUPPORT + 6 * QUERY), ("abmll-natural", 10 * SUPPORT + QUERY)):
        learner = build_method(name, num_steps=5, warm_up=0.25).meta_learner
        assert training_passes(learner, SUPPORT, QUERY, 8) == Passes(2.0 * short + 6.0 * long)
    assert episode_passes(object(), SUPPORT, QUERY) == Passes(float(short))
