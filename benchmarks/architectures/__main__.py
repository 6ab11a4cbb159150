"""Writes docs/models.md: `python -m benchmarks.architectures`."""

from __future__ import annotations

from benchmarks.architectures.table import PAGE, page

if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
