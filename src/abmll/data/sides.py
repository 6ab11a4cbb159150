"""Files that say in a column which rows are for training and which for testing: used as they say, and told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from abmll.core.errors import shown
from abmll.data.columns import SPLIT_NAMES, named
from abmll.data.problems import Problem
from abmll.data.row import Row

_KINDS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("test", "testing", "tst", "holdout", "held-out", "heldout"), "test"),
    **dict.fromkeys(("dev", "development", "valid", "validation", "val", "eval", "evaluation"), "validation"),
}
"""What such columns say, in lower case."""


def support_lines(
    file: str, rows: Sequence[Row], said: str | Literal[False] | None
) -> tuple[frozenset[int], list[Problem]]:
    """The lines of the rows that are adapted on, where a column says which these are; and what is told of it.

    Rows for testing are evaluated on, or those for validation where there is no test; all others are adapted on.

    Args:
        said: the column, by the spec; None looks for a column of a usual name whose every value is a usual one; False
            takes all rows alike.
    """
    if said is False or not rows:
        return frozenset(), []
    columns = dict.fromkeys(name for row in rows for name in row.fields)
    if said is not None and said not in columns:
        cure = "Correct split in the spec; false takes all rows alike"
        return frozenset(), [
            Problem(file, rows[0].line, said, f"no row has a field {shown(said)}, which split names", cure)
        ]
    for column in [said] if said is not None else named(columns, SPLIT_NAMES):
        kinds = [_kind(row.fields.get(column)) for row in rows]
        unknown = [row for row, kind in zip(rows, kinds, strict=True) if kind is None]
        if unknown and said is not None:
            message = f"the split is {shown(unknown[0].fields.get(said), 30)}"
            cure = "Write train, validation or test; split = false in the spec takes all rows alike"
            return frozenset(), [Problem(file, unknown[0].line, said, message, cure)]
        counts = Counter(kinds)
        evaluated = "test" if counts["test"] else "validation"
        if unknown or not counts["train"] or not counts[evaluated]:
            continue
        lines = frozenset(row.line for row, kind in zip(rows, kinds, strict=True) if kind != evaluated)
        message = (
            f"the column {shown(column)} splits the rows: {counts[evaluated]} ({evaluated}) are evaluated on, the "
            f"other {len(lines)} are adapted on"
        )
        return lines, [Problem(file, 0, column, message, "split = false in a TOML spec takes all alike", "note")]
    return frozenset(), []


def _kind(value: object) -> str | None:
    return _KINDS.get(value.strip().casefold()) if isinstance(value, str) and len(value) < 20 else None
