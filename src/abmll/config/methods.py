"""The names of the methods, their options and what is wrong with given ones, asked of the methods themselves.

`abmll.methods` loads torch: it is imported when a run file is checked, and not before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from abmll.rules import breaches, rules_of


def method_names() -> list[str]:
    """Every method that a run file may name without its module."""
    from abmll import methods

    return methods.method_names()


def known_options(name: str) -> list[str]:
    """The keyword options of a method, in its own order."""
    return list(default_options(name))


def default_options(name: str) -> dict[str, Any]:
    """The keyword options of a method with their defaults, in its own order."""
    from abmll.methods import method_factory
    from abmll.methods.table.options import defaults_of

    return defaults_of(method_factory(name))


def wrong_options(name: str, options: Mapping[str, Any]) -> dict[str, str]:
    """Options of the wrong type -> what they must be. All names must be known."""
    from abmll.methods import method_factory

    return breaches(rules_of(method_factory(name)), options)


def refusal(name: str, options: Mapping[str, Any]) -> str | None:
    """What the method itself says against these options (a value out of range); None if it takes them."""
    from abmll.methods import method_factory
    from abmll.methods.table.options import refusal as refused

    return refused(name, method_factory(name), options)
