"""The rows that every comparison has: what is to be had without learning anything from the tasks."""

from __future__ import annotations

from collections.abc import Collection

UNIFORM = "uniform"
REFERENCES = (UNIFORM, "label-frequency", "pretrained")
"""They stand at the end of every table: one that knows nothing, one that never reads a row, one without labels."""
WITHOUT_ROWS = frozenset({UNIFORM, "label-frequency"})
"""Those that never read a row: what they say is calibrated for the very reason that it says nothing."""
CALIBRATION = frozenset({"ece", "adaptive_ece", "mce"})
"""Metrics that such a method is best at, so that it is no rival there."""


BASELINE = "abmll"


def baseline_of(methods: Collection[str]) -> str:
    """What others are compared with where nobody says: `BASELINE`, else another form of it ("abmll-natural"), else the
    first method that is no reference.
    """
    own = [method for method in methods if method not in REFERENCES]
    order = (BASELINE, *(method for method in own if method.startswith(BASELINE)), *own, *methods)
    return next((method for method in order if method in methods), BASELINE)


def is_rival(method: str, metric: str) -> bool:
    """Whether a method counts where it is asked who is best by a metric."""
    return metric not in CALIBRATION or method not in WITHOUT_ROWS
