"""A factory with more options than another: what it makes is made of what the other makes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

from abmll.core.types import Method

Factory = Callable[..., Method]


def extended(factory: Factory, more: Factory, doc: str) -> Factory:
    """`more`, which takes options of its own and hands the others on, with the signature that it then has.

    Args:
        factory: whose options are handed on.
        more: its last parameter is `**options`.
        doc: of the new factory.
    """
    own = [p for p in inspect.signature(more).parameters.values() if p.kind is not p.VAR_KEYWORD]
    inner = [p.replace(kind=p.KEYWORD_ONLY) for p in inspect.signature(factory).parameters.values()]
    hints: dict[str, Any] = {**get_type_hints(factory, include_extras=True), **get_type_hints(more)}
    hints.pop("options")
    more.__name__ = more.__qualname__ = f"{factory.__name__}_{more.__name__}"
    more.__doc__ = doc
    more.__signature__ = inspect.Signature([*inner, *own])  # type: ignore[attr-defined]
    more.__annotations__ = hints
    return more
