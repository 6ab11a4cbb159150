"""The rows that every comparison has: what is to be had without learning anything from the tasks."""

from __future__ import annotations

UNIFORM = "uniform"
REFERENCES = (UNIFORM, "label-frequency", "pretrained")
"""They stand at the end of every table: one that knows nothing, one that never reads a row, one without labels."""
