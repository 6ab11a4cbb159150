"""The one exception that a user's mistake raises."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AbmllError(ValueError):
    """A mistake in the input, told as: what was found, where, and what to do. The CLI prints it without a traceback."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> AbmllError:
    """The error for a name that is not one of `known`: says the nearest and lists all."""
    choices = sorted(known)
    near = difflib.get_close_matches(name, choices, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return AbmllError(f"unknown {kind} {name!r}.{hint} Choose one of: {', '.join(choices)}.")
