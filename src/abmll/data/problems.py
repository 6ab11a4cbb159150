"""What is wrong with a file, in a form that a person can act on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from abmll.core.errors import AbmllError

Severity = Literal["error", "warning", "note"]
SHOWN = 10
"""How many problems an error lists before it only counts them."""


@dataclass(frozen=True)
class Problem:
    """One finding in a task file.

    Attributes:
        line: 1-based; 0 if it concerns the file as a whole.
        field: the field or column concerned; "" if none.
        message: what was found.
        cure: what to do about it.
        severity: an "error" keeps the file from being read; a "warning" does not; a "note" says what was done for the
            user and asks for nothing.
    """

    file: str
    line: int
    field: str
    message: str
    cure: str
    severity: Severity = "error"

    def __str__(self) -> str:
        place = self.file + (f":{self.line}" if self.line else "") + (f" [{self.field}]" if self.field else "")
        return f"{place}: {self.message}. {self.cure}."


def errors(problems: Sequence[Problem]) -> list[Problem]:
    """Those that keep a file from being read."""
    return [problem for problem in problems if problem.severity == "error"]


def listed_lines(lines: Sequence[int], most: int = 8) -> str:
    """ "3, 5-7, 12, …" for line numbers in order: at most `most` runs of them."""
    runs: list[list[int]] = []
    for line in lines:
        if runs and line == runs[-1][1] + 1:
            runs[-1][1] = line
        elif len(runs) < most:
            runs.append([line, line])
        else:
            return ", ".join(_run(*run) for run in runs) + ", …"
    return ", ".join(_run(*run) for run in runs)


def _run(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}" if last > first + 1 else f"{first}, {last}"


def raise_errors(path: Path | str, problems: Sequence[Problem]) -> None:
    """Raises one AbmllError that lists the first 10 errors and counts the others; nothing if there is none."""
    bad = errors(problems)
    if not bad:
        return
    more = f"\n  … and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
    lines = "".join(f"\n  {problem}" for problem in bad[:SHOWN])
    raise AbmllError(f"{path} has {len(bad)} problem{'s' if len(bad) > 1 else ''}:{lines}{more}")
