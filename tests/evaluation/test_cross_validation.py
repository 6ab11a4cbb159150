"""Whether adapting helps, asked of the rows themselves."""

from __future__ import annotations

import math

import pytest
import torch

from abmll.core.types import Adaptation, Example
from abmll.evaluation.cross_validation import cross_validated


class Believes:
    """A posterior that gives every row's first choice this probability."""

    def __init__(self, p):
        self.p = p

    def predict(self, rows, num_samples):
        return torch.tensor([self.p, 1 - self.p]).log().expand(1, len(rows), 2)


class Adapts(Adaptation):
    """An adaptation that is a function of the support set."""

    def __init__(self, function):
        self.function = function

    def adapt(self, likelihood, support):
        return self.function(support)

    def restore(self, likelihood, state):
        raise NotImplementedError


class Toy:
    def parameters(self, role):
        return {}

    def choice_log_probs(self, rows, *, num_samples=0):
        return Believes(0.5).predict(rows, 0)

    def terms(self, examples, **asked):
        raise NotImplementedError

    def choice_graph(self, examples):
        raise NotImplementedError


def rows(targets):
    return [Example(f"text {i}", ("no", "yes"), target, id=str(i)) for i, target in enumerate(targets)]


def test_every_row_is_answered_once_by_the_others_and_folds_are_balanced():
    seen = []

    def adapt(support):
        seen.append(support)
        return Believes(sum(row.target == 0 for row in support) / len(support))

    found = cross_validated(Toy(), Adapts(adapt), rows([0, 1] * 8))
    assert [len(support) for support in seen] == [12] * 4
    assert all(sum(row.target for row in support) == 6 for support in seen)
    left_out = [{str(i) for i in range(16)} - {row.id for row in support} for support in seen]
    assert sorted(id_ for fold in left_out for id_ in fold) == sorted(str(i) for i in range(16))
    assert found.adapted == pytest.approx(math.log(2), rel=1e-6)
    assert found.zero_shot == pytest.approx(math.log(2), rel=1e-6)
    assert found.uniform == pytest.approx(math.log(2), rel=1e-12)


def test_adapting_helps_where_rows_not_seen_get_better():
    good = cross_validated(Toy(), Adapts(lambda _: Believes(0.9)), rows([0] * 15 + [1]))
    assert good.helps
    assert good.adapted == pytest.approx(-(15 * math.log(0.9) + math.log(0.1)) / 16, rel=1e-6)
    assert not cross_validated(Toy(), Adapts(lambda _: Believes(0.1)), rows([0] * 15 + [1])).helps


def test_too_few_rows_say_nothing():
    assert cross_validated(Toy(), Adapts(lambda _: Believes(0.5)), rows([0, 1, 0])) is None
