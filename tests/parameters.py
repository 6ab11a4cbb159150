"""All ways in which options meet, of which a few are enough for the default tests."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def few_of(every: Iterable[Any], few: Collection[Any]) -> list[Any]:
    """For `pytest.mark.parametrize`: the values in `few` as they are, all others for the slow tests.

    A value that is a tuple stands for several parameters.
    """
    values = list(every)
    assert all(one in values for one in few), "a few of them"
    return [
        one if one in few else pytest.param(*(one if isinstance(one, tuple) else (one,)), marks=pytest.mark.slow)
        for one in values
    ]
