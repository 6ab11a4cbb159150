"""Reports whose figures are planned but not drawn, for tests that look at what was computed.

Drawing takes most of a report's seconds. Other tests in tests/reports and test_embedded.py draw.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


class Blank:
    """In place of a figure, its axes and all that they return: takes whatever is asked of it."""

    def __getattr__(self, name: str) -> Blank:
        return self

    def __call__(self, *_: object, **__: object) -> Blank:
        return self

    def __iter__(self) -> Iterator[Blank]:
        return iter((self, self))  # two axes, where a figure has two


@contextmanager
def blank(*_: float) -> Iterator[Blank]:
    yield Blank()


@contextmanager
def planned_only() -> Iterator[None]:
    """Figures as empty elements with their names, as long as it is open."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("abmll.reports.figures._figure", blank)
        patch.setattr("abmll.reports.figures._svg", lambda figure, name, *_, **__: f"<svg><title>{name}</title></svg>")
        yield
        importlib.import_module("abmll.reports.figures").swatch.cache_clear()  # no blank one for reports that are drawn
