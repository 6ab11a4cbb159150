"""Learning curves read from `training.jsonl` files, for drawing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from abmll.core.documents import parse_json
from abmll.core.errors import AbmllError

LOSSES = ("loss", "query_nll", "nll", "inner_loss")
"""The loss of a log line: the first of these fields that it has."""


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
        return (total[stop] - total[start]) / (stop - start)


def read_curves(run: str, path: Path) -> list[Curve]:
    """The loss, and the KL divergence if it is ever non-zero, against the outer step. A torn last line is left out.

    Raises: AbmllError if the file cannot be read or a line before the last is not a JSON object with a `step`.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise AbmllError(f"cannot read the training log of {run} from {path}: {error.strerror}.") from error
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = parse_json(line, nan_is_null=True)
            record["step"] + 0
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines):
                break
            problem = 'it is not a JSON object with a number "step". Is this a training.jsonl?'
            raise AbmllError(f"{path}, line {number}: {problem}") from error
        records.append(record)
    loss = next((name for name in LOSSES if any(_is_number(r.get(name)) for r in records)), None)
    kl = "kl" if any(_is_number(r.get("kl")) and r["kl"] != 0 for r in records) else None
    return [_curve(run, quantity, records) for quantity in (loss, kl) if quantity]


def by_method(curves: Iterable[Curve], methods: Iterable[str]) -> Mapping[str, list[Curve]]:
    """Curves grouped by the method that their run's name begins with ("abmll/0", "abmll seed 0"), else by run."""
    known = sorted(methods, key=len, reverse=True)
    groups: dict[str, list[Curve]] = {}
    for curve in curves:
        starts = (m for m in known if curve.run == m or curve.run[: len(m) + 1] in (f"{m}/", f"{m} ", f"{m}:"))
        groups.setdefault(next(starts, curve.run), []).append(curve)
    return groups


def _curve(run: str, quantity: str, records: list[dict]) -> Curve:
    points = [(r["step"], r[quantity]) for r in records if _is_number(r.get(quantity))]
    steps, values = np.array(points, dtype=np.float64).T
    return Curve(run, quantity, steps, values)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))
