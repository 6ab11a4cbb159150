"""What is wrong with a file, in a form that a person can act on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from abmll.core.errors import AbmllError

SHOWN = 10
"""How many problems an error lists before it only counts them."""


@dataclass(frozen=True)
class Problem:
    """One finding in a task file.

    line: 1-based; 0 if it concerns the file as a whole.
    field: the field or column concerned; "" if none.
    message: what was found. cure: what to do about it.
    severity: an "error" keeps the file from being read; a "warning" does not.
    """

    file: str
    line: int
    field: str
    message: str
    cure: str
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        place = self.file + (f":{self.line}" if self.line else "") + (f" [{self.field}]" if self.field else "")
        return f"{place}: {self.message}. {self.cure}."


def errors(problems: Sequence[Problem]) -> list[Problem]:
    """Those that keep a file from being read."""
    return [problem for problem in problems if problem.severity == "error"]


def raise_errors(path: Path | str, problems: Sequence[Problem]) -> None:
    """Raises one AbmllError that lists the first 10 errors and counts the others; nothing if there is none."""
    bad = errors(problems)
    if not bad:
        return
    more = f"\n  … and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
    lines = "".join(f"\n  {problem}" for problem in bad[:SHOWN])
    raise AbmllError(f"{path} has {len(bad)} problem{'s' if len(bad) > 1 else ''}:{lines}{more}")
