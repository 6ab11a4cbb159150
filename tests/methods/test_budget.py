"""Budgets: the number of steps that is really taken, and the number that fits into seconds."""

from __future__ import annotations

from typing import Any

import pytest

from abmll.core.errors import AbmllError
from abmll.core.types import META
from abmll.methods import METHODS, build_method
from abmll.methods.parts.adam_steps import AdamSteps
from abmll.methods.parts.budget import MOST_STEPS, inner_loops, least_steps, steps_within, with_num_steps
from abmll.methods.parts.gradient import NoAdaptation
from abmll.methods.parts.inner import InnerLoop
from abmll.methods.parts.natural import NaturalSteps
from tests.toy import ToyEpisodes, toy_for

STEPPING = [name for name in METHODS if any(inner_loops(build_method(name).adaptation))]
SEARCHING = {"lorahub"}
"""Whose steps are evaluations without a gradient: tests/methods/test_library.py counts them."""


@pytest.fixture
def taken(monkeypatch):
    """How many gradient steps were taken, one number for each inner loop that ran."""
    counts = []

    def counting(batches):
        def counted(self, support):
            counts.append(0)
            for batch in batches(self, support):
                counts[-1] += 1
                yield batch

        return counted

    for loop in (InnerLoop, AdamSteps, NaturalSteps):
        monkeypatch.setattr(loop, "batches", counting(loop.batches))
    return counts


@pytest.mark.parametrize("name", [name for name in STEPPING if name not in SEARCHING])
def test_every_inner_loop_takes_that_many_steps(name, taken):
    method = build_method(name)
    with_num_steps(method.adaptation, 7).adapt(toy_for(method.adapter), ToyEpisodes(support_size=8)[0].support)
    assert taken
    assert set(taken) == {7}


def test_who_steps():
    assert set(METHODS) - set(STEPPING) == {
        "abmll",
        "uniform",
        "label-frequency",
        "pretrained",
        "in-context",
        "metaicl",
        "arrow",
    }
    assert with_num_steps(NoAdaptation(), 7) == NoAdaptation()


def test_swag_keeps_the_shares_of_its_phases_and_refuses_too_few():
    swag: Any = build_method("swag", num_steps=20).adaptation
    assert (with_num_steps(swag, 8).start, with_num_steps(swag, 100).start) == (4, 50)
    with pytest.raises(AbmllError, match="fewer than two"):
        with_num_steps(swag, 1)
    six: Any = build_method("swag", num_steps=6).adaptation
    assert six.start == 3


@pytest.mark.parametrize(
    ("num_steps", "first_step", "every"), [(20, 10, 1), (20, 0, 1), (7, 3, 2), (40, 37, 1), (9, 2, 3)]
)
def test_swag_knows_the_least_number_of_steps_that_leave_two_iterates(num_steps, first_step, every):
    swag = build_method("swag", num_steps=num_steps, first_step=first_step, every=every).adaptation
    least = least_steps(swag)
    with_num_steps(swag, least)
    with pytest.raises(AbmllError, match="fewer than two"):
        with_num_steps(swag, least - 1)


@pytest.mark.parametrize("name", STEPPING)
def test_the_least_number_of_steps_is_1_or_the_methods_own(name):
    adaptation = build_method(name).adaptation
    with_num_steps(adaptation, least_steps(adaptation))
    assert least_steps(adaptation) == (3 if name == "swag" else 1)


class Clock:
    """A clock that only adaptations move: `once` seconds each, and `step` for every step."""

    def __init__(self, taken, once, step):
        self.taken, self.once, self.step = taken, once, step

    def __call__(self):
        return self.once * len(self.taken) + self.step * sum(self.taken)


def fitting(name, taken, seconds, *, once, step):
    method = build_method(name)
    support = ToyEpisodes(support_size=6)[0].support
    return steps_within(method.adaptation, toy_for(method.adapter), support, seconds, Clock(taken, once, step))


def test_as_many_steps_as_fit(taken):
    assert fitting("lora", taken, 2.05, once=0.5, step=0.1) == 15  # 0.5 + 15 · 0.1 = 2.0
    assert fitting("lora", taken, 0.2, once=0.5, step=0.1) == 1, "one at least"
    assert fitting("lora", taken, 1e9, once=0.5, step=0.1) == MOST_STEPS
    assert fitting("swag", taken, 0.0, once=0.5, step=0.1) == 3, "the least that SWAG can do with"


def test_a_difference_that_drowns_in_noise_is_not_divided_by(taken):
    times = iter([0, 1, 1, 2, 2, 2.9])  # a longer adaptation that took less time
    method = build_method("lora")
    support = ToyEpisodes()[0].support
    found = steps_within(method.adaptation, toy_for(method.adapter), support, 1.9, lambda: next(times))
    assert found == 1 + int(0.9 / (0.9 / 5))


def test_no_steps_no_measurement(taken):
    assert fitting("pretrained", taken, 1.0, once=0.5, step=0.1) is None
    assert fitting("in-context", taken, 1.0, once=0.5, step=0.1) is None
    assert taken == []


def test_measuring_leaves_meta(taken):
    method = build_method("ensemble")
    toy = toy_for(method.adapter)
    before = toy.parameters(META)["mean"].clone()
    steps_within(method.adaptation, toy, ToyEpisodes()[0].support, 0.01)
    assert (before == toy.parameters(META)["mean"]).all()
