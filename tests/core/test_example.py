"""An example validates itself, and an unlabelled one says so."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from abmll.core.errors import AbmllError
from abmll.core.types import Example


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((3, ("no", "yes")), r"the example 3 is int, not text\. Write it as text"),
        (("a", "no|yes"), r"its choices must be a list such as \[\"no\", \"yes\"\]; found 'no\|yes'"),
        (("a", {"no": 0}), "its choices must be a list"),
        (("a", ("no",)), r"at least two different choices; found \['no'\]"),
        (("a", ("no", "no")), "at least two different choices"),
        (("a", ("no", " ")), r"every choice must be text, not empty; found ' '"),
        (("a", (0, 1)), "every choice must be text, not empty; found 0"),
        (("a", ("no", "yes"), 2), r"its target 2 is out of range; 2 choices are counted 0 … 1"),
        (("a", ("no", "yes"), -1), r"target -1 is out of range; .* Write None if the right choice is not known"),
        (("a", ("no", "yes"), "yes"), r"the text 'yes', not an index\. Write 1"),
        (("a", ("no", "yes"), "maybe"), r"the text 'maybe', not an index\. Write the index of the right choice"),
        (("a", ("no", "yes"), True), "must be a whole number, or None; found True"),
        (("a", ("no", "yes"), 1.0), "must be a whole number, or None; found 1.0"),
        (("a", ("no", "yes"), 1, 7), "its question must be text; found 7"),
        (("a" * 99, ("no", "yes"), 1, "", 7), r"the example 'a{56}\.\.\.: its id must be text; found 7"),
    ],
)
def test_what_is_broken_is_told(given, message):
    with pytest.raises(AbmllError, match=message):
        Example(*given)


def test_what_can_be_meant_is_taken():
    target: Any = np.int64(1)
    example: Any = Example("a", ["no", "yes"], target)
    assert example == ("a", ("no", "yes"), 1, "", "", ())
    assert type(example.target) is int
    assert (example.answer, example.known_target) == ("yes", 1)
    assert pickle.loads(pickle.dumps(example)) == example
    assert repr(example).startswith("Example(prompt='a', choices=('no', 'yes'), target=1")


def test_a_row_without_a_label():
    example = Example("a", ("no", "yes"))
    assert example.target is None
    for unknown in ("answer", "known_target"):
        with pytest.raises(AbmllError, match=r"the example 'a' has no label \(its target is None\)"):
            getattr(example, unknown)


def test_a_changed_example_is_checked_again():
    example = Example("a", ("no", "yes"), 1)
    assert type(example._replace(question="Really?")) is Example
    with pytest.raises(AbmllError, match="out of range"):
        example._replace(target=2)
