"""The names of the methods, their options and what is wrong with given ones, asked of the methods themselves."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from abmll.config.fields import describe
from abmll.core.errors import AbmllError


def method_names() -> list[str]:
    """Every method that a run file may name."""
    from abmll.methods import METHODS

    return list(METHODS)


def known_options(name: str) -> list[str]:
    """The keyword options of a method, in its own order."""
    from abmll.methods import METHODS

    return list(inspect.signature(METHODS[name]).parameters)


def wrong_options(name: str, options: Mapping[str, Any]) -> dict[str, str]:
    """Options of the wrong type -> what they must be. All names must be known."""
    from abmll.methods import METHODS

    hints = get_type_hints(METHODS[name], include_extras=True)
    wrong = {}
    for option, value in options.items():
        try:
            TypeAdapter(hints[option], config=ConfigDict(strict=True, allow_inf_nan=False)).validate_python(value)
        except ValidationError:
            wrong[option] = describe(hints[option])
    return wrong


def refusal(name: str, options: Mapping[str, Any]) -> str | None:
    """What the method itself says against these options (a value out of range); None if it takes them."""
    from abmll.methods import METHODS

    try:
        METHODS[name](**options)
    except AbmllError as error:
        return str(error)
    return None
