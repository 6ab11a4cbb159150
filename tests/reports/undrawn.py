"""Reports whose figures are planned but not drawn, for tests that look at what was computed.

Drawing takes most of a report's seconds. Other tests in tests/reports and test_embedded.py draw.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def planned_only() -> Iterator[None]:
    """Figures as empty elements with their names, as long as it is open."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("abmll.reports.figures._svg", lambda figure, name, *_, **__: f"<svg><title>{name}</title></svg>")
        yield
