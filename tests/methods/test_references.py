"""Uniform and label frequencies: no model is asked, and the numbers are those of the textbook."""

from __future__ import annotations

import math

import pytest
import torch

from abmll.core.errors import AbmllError
from abmll.core.types import META, Example
from abmll.data.task import Task
from abmll.evaluation.evaluate import evaluate
from abmll.methods import METHODS, build_method
from abmll.methods.parts.no_model import NoModel, needs_model

CLASSES = ("bad", "good", "so so")


def rows(targets, choices=CLASSES):
    return [Example(f"text {i}", choices, target, id=str(i)) for i, target in enumerate(targets)]


def predicted(name, support, query, **options):
    return build_method(name, **options).adaptation.adapt(NoModel(), support).predict(query, 5)


def test_only_the_two_of_them_ask_no_model():
    assert {name for name in METHODS if not needs_model(build_method(name))} == {"uniform", "label-frequency"}
    assert NoModel().parameters(META) == {}
    with pytest.raises(TypeError, match="asked the model"):
        NoModel().choice_log_probs(rows([0]))


def test_uniform_gives_every_choice_of_a_row_the_same_probability():
    query = [*rows([0]), Example("two", ("a", "b"), 1)]
    found = predicted("uniform", rows([1, 1]), query)
    assert found.shape == (1, 2, 3)
    torch.testing.assert_close(found[0, 0], torch.full((3,), -math.log(3)))
    torch.testing.assert_close(found[0, 1], torch.tensor([-math.log(2), -math.log(2), -math.inf]))


@pytest.mark.parametrize("smoothing", [1.0, 0.5])
def test_label_frequency_is_the_posterior_mean_under_a_dirichlet_prior(smoothing):
    # The mean of Dirichlet(counts + smoothing), by its definition in float64.
    expected = torch.distributions.Dirichlet(torch.tensor([1, 4, 0], dtype=torch.float64) + smoothing).mean
    found = predicted("label-frequency", rows([1, 1, 0, 1, 1]), rows([2]), smoothing=smoothing)
    torch.testing.assert_close(found[0, 0].double().exp(), expected, rtol=1e-6, atol=0)


def test_frequencies_belong_to_the_text_of_a_choice_and_not_to_its_place():
    query = [Example("turned", ("so so", "good", "bad"), 0)]
    found = predicted("label-frequency", rows([1, 1, 0]), query)[0, 0].exp()
    torch.testing.assert_close(found, torch.tensor([1 / 6, 3 / 6, 2 / 6]))


def test_where_rows_have_choices_of_their_own_nothing_is_known():
    support = [Example("a", ("x", "y"), 0), Example("b", ("z", "w"), 0)]
    found = predicted("label-frequency", support, [Example("c", ("x", "y"), 1)])
    torch.testing.assert_close(found.exp(), torch.full((1, 1, 2), 0.5))
    other = predicted("label-frequency", rows([0, 0]), [Example("c", ("x", "y"), 1)])
    torch.testing.assert_close(other.exp(), torch.full((1, 1, 2), 0.5))


def test_a_smoothing_of_nothing_would_make_labels_impossible():
    with pytest.raises(AbmllError, match="smoothing must be a number above 0; got 0"):
        build_method("label-frequency", smoothing=0.0)


def test_they_are_judged_without_a_model():
    task = Task("t", tuple(rows([0, 1, 1, 1, 2, 1, 1, 0])))
    for name in ("uniform", "label-frequency"):
        cells = list(evaluate(NoModel(), build_method(name), name, [task], support_sizes=(0, 4)))
        assert [cell.support_size for cell in cells] == [0, 4]
        assert all(cell.extra["choices"] == list(CLASSES) for cell in cells)
        torch.testing.assert_close(cells[0].log_probs.exp(), torch.full((1, 4, 3), 1 / 3))
