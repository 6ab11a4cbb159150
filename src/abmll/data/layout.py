"""Where in a row things stand, as a spec or a format says; what it does not say is looked for under the usual names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Layout:
    """Where in a row things stand. What is None is looked for under its usual names.

    Attributes:
        input: a column, or a template over columns.
        choices: a column (a list, or text with `|` between), or the choices themselves (texts or templates).
        target: the column that holds the right choice's index, counted from `first_index`.
        label: the column that holds the right choice's text, renamed by `labels` first.
        labels: label as it stands in the file -> choice.
        labelled: False lets rows have no label; their target is then None.
        known_choices: the choices of a file that names none, in place of its labels.
    """

    input: str | None = None
    choices: str | tuple[str, ...] | None = None
    target: str | None = None
    label: str | None = None
    id: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    first_index: int = 0
    labelled: bool = True
    known_choices: tuple[str, ...] = ()
