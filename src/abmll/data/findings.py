"""The problems of one file, gathered while its rows are read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from abmll.core.errors import nearest, shown
from abmll.data.columns import USUAL_NAMES
from abmll.data.problems import Problem, Severity, errors

MOST_FINDINGS = 10_000
"""More problems than this are not gathered: the file is refused anyway."""


MOST_HINTS = 20
"""Different names for which a near one is looked for: comparing with hundreds takes time."""


class Findings:
    """The problems found so far in one file."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self._near: dict[tuple[str, ...], str | None] = {}

    @property
    def errors(self) -> list[Problem]:
        """Those that keep the file from being read."""
        return errors(self.problems)

    @property
    def full(self) -> bool:
        """Whether so many were found that reading on is of no use."""
        return len(self.problems) >= MOST_FINDINGS

    def add(self, line: int, field: str, message: str, cure: str, severity: Severity = "error") -> None:
        """One more problem; see `Problem`."""
        self.problems.append(Problem(self.file, line, field, message, cure, severity))

    def near(self, name: str, known: Iterable[str]) -> str | None:
        """The nearest name, looked for once however often the same one is missed."""
        known = tuple(known)
        key = (name, *known[:50])
        if key not in self._near and len(self._near) < MOST_HINTS:
            self._near[key] = nearest(name, known)
        return self._near.get(key)

    def missing(self, line: int, what: str, names: Sequence[str], found: Sequence[str], spec_key: str = "") -> None:
        """A field that no row has. names: under which it was looked for. spec_key: the spec's key that names it."""
        quoted = " or ".join(repr(name) for name in names)
        where = f", which {spec_key} in the spec names" if spec_key else ""
        cure = self.nearest_field(names, found)
        if not spec_key:
            cure += ". `abmll tasks import` finds the columns and writes a spec"
        self.add(line, what, f"no row has a field {quoted}{where}", cure)

    def missing_in_row(self, line: int, name: str, found: Sequence[str]) -> None:
        """A field that other rows have and this one has not."""
        self.add(line, name, f"the row has no field {shown(name)}", self.nearest_field((name,), found))

    def nearest_field(self, names: Sequence[str], found: Sequence[str]) -> str:
        """The cure for an absent field: the likeliest of the present ones, and which these are."""
        free = [name for name in found if name not in USUAL_NAMES]
        near = next((match for name in names if (match := self.near(name, free))), None)
        hint = f"Did you mean {shown(near)} to be it? Rename it, or name it in a TOML spec. " if near else ""
        return f"{hint}The fields found are: {listing(found)}"


def listing(names: Iterable[str]) -> str:
    """Names in quotes, the first 12 of them."""
    known = list(names)
    if not known:
        return "none"
    return ", ".join(shown(name, 40) for name in known[:12]) + (f", … ({len(known)})" if len(known) > 12 else "")
