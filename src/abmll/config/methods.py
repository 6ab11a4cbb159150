"""The options of the methods, asked of the methods themselves.

`abmll.methods` loads torch: it is imported when a run file is checked, and not before.
"""

from __future__ import annotations

from typing import Any


def known_options(name: str) -> list[str]:
    """The keyword options of a method, in its own order."""
    return list(default_options(name))


def default_options(name: str) -> dict[str, Any]:
    """The keyword options of a method with their defaults, in its own order."""
    from abmll.methods import method_factory
    from abmll.methods.table.options import defaults_of

    return defaults_of(method_factory(name))
