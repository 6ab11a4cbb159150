"""The exceptions that a user's mistake raises, and the words that they are made of."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from itertools import islice

LONGEST_NAME, MOST_NAMES = 80, 2000
"""Comparing names takes time in the product of their lengths: longer ones, and more of them, are not compared."""
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class AbmllError(ValueError):
    """A mistake in the input, told as: what was found, where, and what to do. The CLI prints it without a traceback."""


class Unreadable(AbmllError):
    """What keeps a file or a text from being read.

    Attributes:
        found: what was found, without a full stop.
        cure: what to do about it, without a full stop.
        line: 1-based; 0 if it concerns the whole, or cannot be told.
        column: 1-based, likewise.
        field: the field concerned; "" if none.
    """

    def __init__(self, found: str, cure: str, *, line: int = 0, column: int = 0, field: str = "") -> None:
        place = f" at line {line}" + (f", column {column}" if column else "") if line else ""
        super().__init__(f"{found}{place}. {cure}.")
        self.found, self.cure, self.line, self.column, self.field = found, cure, line, column, field


def unknown_name(kind: str, name: str, known: Iterable[str]) -> AbmllError:
    """The error for a name that is not one of `known`: says the nearest and lists all."""
    choices = sorted(known)
    near = nearest(name, choices)
    hint = f" Did you mean {near!r}?" if near else ""
    return AbmllError(f"unknown {kind} {shown(name)}.{hint} Choose one of: {', '.join(choices)}.")


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The one of `known` that is most like `name`, or None. Takes bounded time, however long the names are."""
    if len(name) > LONGEST_NAME:
        return None
    short = [one for one in islice(known, MOST_NAMES) if len(one) <= LONGEST_NAME]
    plain = {one.casefold(): one for one in reversed(short)}
    if name.casefold() in plain:
        return plain[name.casefold()]
    return next(iter(difflib.get_close_matches(name, short, n=1, cutoff=cutoff)), None)


def shown(value: object, width: int = 80) -> str:
    """`repr`, at most about `width` characters of it; what no terminal prints is escaped."""
    if isinstance(value, str) and len(value) > width:
        return f"{value[:width]!r}… ({len(value):,} characters)"
    text = printable(repr(value))
    return text if len(text) <= 2 * width else f"{text[: 2 * width]}…"


def printable(text: str) -> str:
    """The text with what a terminal or a UTF-8 file cannot take escaped: control characters, also those that turn the
    direction of all that follows, and lone surrogates."""
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)
