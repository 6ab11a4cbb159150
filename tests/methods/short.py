"""The rows of the method table with few steps: what holds after three holds after twenty."""

from __future__ import annotations

from typing import Any

from abmll.core.types import Method
from abmll.methods import build_method, method_factory
from abmll.methods.table.options import defaults_of

FEWER: dict[str, Any] = {"num_steps": 3, "num_evaluations": 10, "num_members": 2, "first_step": 1}


def short(name: str) -> Method:
    """A fresh instance of the row."""
    known = defaults_of(method_factory(name))
    return build_method(name, **{option: value for option, value in FEWER.items() if option in known})
