"""Text made from the columns of a row: "Premise: {premise}\\nHypothesis: {hypothesis}"."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any


class Template:
    """A text with {column} places; `{{` and `}}` are literal braces.

    columns: the columns that it needs, in order. is_column: whether it is the text of one column and no more.

    Args:
        bare_is_column: a text without any place is a column's name, not itself.

    Only plain names are places: no attributes, no indices, no conversions, no format codes. A spec from a
    stranger can therefore do nothing but insert text.

    Raises ValueError for anything else between braces.
    """

    def __init__(self, text: str, *, bare_is_column: bool = True) -> None:
        self.text = text
        self.is_column = False
        self._parts: list[tuple[str, str | None]] = []
        for literal, column, code, conversion in string.Formatter().parse(text):
            if column is not None and (not column or code or conversion or any(mark in column for mark in ".[]")):
                raise ValueError(f"{{{column}}} in {text!r} is not a plain column name; write {{{{ for a literal brace")
            self._parts.append((literal, column))
        self.columns = [column for _, column in self._parts if column is not None]
        if bare_is_column and not self.columns:
            self._parts, self.columns, self.is_column = [("", text)], [text], True

    @classmethod
    def of_column(cls, name: str) -> Template:
        """The text in one column, whatever its name: braces in it are part of the name."""
        template = cls("")
        template._parts, template.columns, template.is_column = [("", name)], [name], True
        return template

    def render(self, fields: Mapping[str, Any]) -> str:
        """One row's text. Raises KeyError for an absent column, TypeError for one neither text nor number."""
        return "".join(self.pieces(fields))

    def pieces(self, fields: Mapping[str, Any]) -> list[str]:
        """What `render` puts together, raising likewise: a place may stand there thousands of times."""
        return [
            piece
            for literal, column in self._parts
            for piece in (literal, "" if column is None else cell_text(fields[column]))
            if piece
        ]


def cell_text(value: Any) -> str:
    """Text as it is, numbers as written, true and false in JSON's spelling. Raises TypeError otherwise."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    raise TypeError("neither text nor a number")
