"""Learning curves read from `training.jsonl` files, for drawing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from abmll.core.documents import parse_json
from abmll.core.errors import AbmllError
from abmll.core.files import read_bytes

PER_TOKEN = "KL per token"
"""The quantity of a curve of KL(φ ‖ θ), summed over layers and output units, divided by the number of tokens."""
USUAL_KL = "compare it with other runs of the same model, not across models."
"""What values are usual, for people who see the curve."""
LOSSES = ("loss", "query_nll", "nll", "inner_loss")
"""The loss of a log line: the first of these fields that it has."""
WORDS = {"nll": "NLL", "query_nll": "NLL of the query", "inner_loss": "loss of the inner loop"}
"""What a log's fields are called on an axis, where not by their own names."""
LARGEST_LOG = 2**30
"""Bytes of the largest log that is drawn."""


@dataclass(frozen=True, eq=False)
class Curve:
    """One quantity of one training run: `steps` and `values` (steps,), only where the value is a finite number."""

    run: str
    quantity: str
    steps: np.ndarray
    values: np.ndarray

    @property
    def smooth(self) -> np.ndarray:
        """Centred running mean over 1/20 of the curve; at its ends, over what there is."""
        half = max(len(self.values) // 40, 0)
        total = np.concatenate([[0.0], np.cumsum(self.values)])
        places = np.arange(len(self.values))
        start, stop = np.maximum(places - half, 0), np.minimum(places + half + 1, len(self.values))
        means: np.ndarray = (total[stop] - total[start]) / (stop - start)
        return means


def read_curves(run: str, path: Path) -> list[Curve]:
    """The loss, and the KL divergence if it is ever non-zero, against the outer step. A torn last line is left out.

    The divergence is taken per token where the log says of how many it is the sum: the sum grows with text and batch.

    Raises:
        AbmllError: If the file cannot be read or a line before the last is not a JSON object with a `step`.
    """
    lines = read_bytes(path, LARGEST_LOG).split(b"\n")
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = parse_json(line, nan_is_null=True)
            if not _is_number(record["step"]):
                raise ValueError("no step")
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines):
                break
            problem = 'it is not a JSON object with a number "step". Is this a training.jsonl?'
            raise AbmllError(f"{path}, line {number}: {problem}") from error
        records.append(record)
    loss = next((name for name in LOSSES if any(_is_number(r.get(name)) for r in records)), None)
    kl = "kl" if any(_is_number(r.get("kl")) and r["kl"] != 0 for r in records) else None
    if kl and all(_is_number(r.get("num_tokens")) and r["num_tokens"] > 0 for r in records):
        kl = PER_TOKEN
        records = [{**r, kl: r["kl"] / r["num_tokens"] if _is_number(r["kl"]) else None} for r in records]
    return [_curve(run, quantity, records) for quantity in (loss, kl) if quantity]


def training_seconds(path: Path) -> float:
    """Seconds of all outer steps in a log; lines that do not say are left out."""
    total = 0.0
    for line in path.read_bytes().split(b"\n"):
        try:
            seconds = parse_json(line).get("seconds")
        except (AbmllError, ValueError, AttributeError):
            continue
        total += seconds if _is_number(seconds) else 0.0
    return total


def by_method(curves: Iterable[Curve], methods: Iterable[str]) -> Mapping[str, list[Curve]]:
    """Curves grouped by the method that their run's name begins with ("abmll/0", "abmll seed 0") or has among its
    folders ("runs/all/abmll/seed-0"), else by run.
    """
    known = sorted(methods, key=len, reverse=True)
    groups: dict[str, list[Curve]] = {}
    for curve in curves:
        parts = Path(curve.run).parts
        starts = (m for m in known if m in parts or curve.run[: len(m) + 1] in (f"{m} ", f"{m}:"))
        groups.setdefault(next(starts, curve.run), []).append(curve)
    return groups


def _curve(run: str, quantity: str, records: list[dict[str, Any]]) -> Curve:
    points = [(r["step"], r[quantity]) for r in records if _is_number(r.get(quantity))]
    steps, values = np.array(points, dtype=np.float64).T
    return Curve(run, quantity, steps, values)


def _is_number(value: object) -> bool:
    # beyond 1e300 a whole number may be none that numpy knows
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
