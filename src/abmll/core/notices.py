"""What a user should know and need not answer: one line on standard error, once."""

from __future__ import annotations

import os
import sys

_told: set[str] = set()


def tell(line: str) -> None:
    """Writes a line to standard error, each only once in a process and by the first of several ranks alone."""
    if line not in _told and os.environ.get("RANK", "0") == "0":
        _told.add(line)
        print(line, file=sys.stderr, flush=True)
