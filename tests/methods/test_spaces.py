"""The spaces that are searched: every row has one, of its own options, around its own defaults."""

from __future__ import annotations

import inspect
import math
from collections import Counter

import pytest

from abmll.methods import METHODS, build_method
from abmll.methods.parts.space import Choice, Given, LogUniform
from abmll.methods.table.options import option_mistakes
from abmll.methods.table.search import draw_options, space_of

SPACES = {name: space_of(name) for name in METHODS}


def test_every_row_has_a_space():
    assert all("space" in vars(factory) for factory in METHODS.values())


@pytest.mark.parametrize("method", SPACES)
def test_options_are_the_rows_own_and_ranges_hold_their_defaults(method):
    parameters = inspect.signature(METHODS[method]).parameters
    for option, values in SPACES[method].items():
        assert parameters[option].default in values, (method, option)
    assert not {"num_steps", "batch_size"} & SPACES[method].keys(), "fixed by the comparison"


@pytest.mark.parametrize("method", SPACES)
def test_every_draw_is_a_valid_setting(method):
    for trial in range(40):
        options = draw_options(method, 0, trial)
        assert option_mistakes(method, METHODS[method], options) == []
        assert all(value in SPACES[method][name] for name, value in options.items())


def test_the_in_context_variant_has_the_defaults_of_abmll():
    own, plain = (inspect.signature(METHODS[name]).parameters for name in ("abmll-in-context", "abmll-output"))
    shared = own.keys() & plain.keys()
    assert len(shared) >= 5
    assert {name: own[name].default for name in shared} == {name: plain[name].default for name in shared}


def test_trial_0_is_the_defaults_and_draws_depend_on_their_arguments_alone():
    assert draw_options("abmll", 5, 0) == {}
    assert draw_options("abmll", 5, 3) == draw_options("abmll", 5, 3)
    different = [draw_options(*key) for key in (("abmll", 5, 3), ("abmll", 5, 4), ("abmll", 6, 3))]
    assert different[0] != different[1] != different[2] != different[0]
    assert draw_options("a method of someone else's", 5, 3) == {}


@pytest.mark.parametrize("method", ["laplace", "swag", "tfb", "blob", "bayesian-lora"])
def test_the_outer_rate_is_drawn_for_the_meta_learner_that_was_drawn(method):
    """As multitask and reptile search theirs; a posterior that starts from nothing has none."""
    seen: Counter[str] = Counter()
    for trial in range(1, 60):
        options = draw_options(method, 0, trial)
        start, rate = options["start"], options.get("outer_learning_rate")
        seen[start] += 1
        if start == "none":
            assert rate is None
        else:
            assert rate in SPACES[start]["outer_learning_rate"]
            assert build_method(method, **options).outer.learning_rate == rate
    assert min(seen[start] for start in ("none", "multitask", "reptile")) >= 5


def test_a_given_option_comes_after_the_one_it_depends_on():
    for space in SPACES.values():
        names = list(space)
        for name, values in space.items():
            if isinstance(values, Given):
                assert names.index(values.option) < names.index(name)
                chosen = space[values.option]
                assert isinstance(chosen, Choice)
                assert set(values.spaces) <= set(chosen.values)


def test_log_uniform_numbers_are_uniform_in_their_logs():
    values = [draw_options("lora", 0, trial)["learning_rate"] for trial in range(1, 2001)]
    space = SPACES["lora"]["learning_rate"]
    assert isinstance(space, LogUniform)
    places = sorted(math.log(v / space.low) / math.log(space.high / space.low) for v in values)
    # Kolmogorov-Smirnov at 0.1 %
    assert max(abs(place - (i + 0.5) / 2000) for i, place in enumerate(places)) < 1.95 / math.sqrt(2000)
    assert all(len(f"{v:e}".split("e")[0].rstrip("0")) <= 4 for v in values), "three digits"


def test_ends_and_choices():
    assert LogUniform(1e-3, 10.0).at(0.0) == 1e-3
    assert LogUniform(1e-3, 10.0).at(0.5) == pytest.approx(0.1)
    assert [Choice(tuple("abc")).at(place) for place in (0.0, 0.34, 0.999)] == ["a", "b", "c"]
    counts = Counter(draw_options("tfb", 0, trial)["start"] for trial in range(1, 601))
    assert min(counts.values()) > 150
