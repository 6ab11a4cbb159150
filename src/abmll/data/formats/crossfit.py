"""CrossFit's few-shot files, one `input<TAB>output` a line, and the draws that make them.

`<folder>/<task>/<task>_<k>_<seed>_<train|dev|test>.tsv`; k is 16 examples a class for classification tasks and 32 in
all for others, drawn with the seeds 100, 13, 21, 42 and 87. Training tasks give the training and development rows of
all draws, as the published multi-task training reads them; held-out tasks adapt on the training rows and are evaluated
on the test rows.
Source: Ye et al. 2021 (CrossFit) and the scripts of its repository.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from abmll.data.formats.container import read_container
from abmll.data.formats.format import CHOICES, INPUT, LABEL, Format, Misshapen, Options, Reading, reshape
from abmll.data.formats.listed import letter_index
from abmll.data.formats.unifiedqa import lettered_choices

SEEDS = (100, 13, 21, 42, 87)
K_PER_CLASS = 16
K_IN_ALL = 32
HEADER = ["input", "output"]

Item = TypeVar("Item")


def few_shot(
    rows: Sequence[Item], seed: int, *, k: int, label: Callable[[Item], Hashable] | None = None
) -> tuple[list[Item], list[Item]]:
    """CrossFit's draw: training and development rows, equal to the published ones for equal rows in equal order.

    The rows are shuffled by NumPy's legacy generator. With `label`, the first k of every class are training rows and
    the next k development rows, classes in the order in which they first come up; without, the first k and the next k.
    """
    order = list(range(len(rows)))
    np.random.RandomState(seed).shuffle(order)
    shuffled = [rows[index] for index in order]
    if label is None:
        return shuffled[:k], shuffled[k : 2 * k]
    classes: dict[Hashable, list[Item]] = {}
    for row in shuffled:
        classes.setdefault(label(row), []).append(row)
    train = [row for members in classes.values() for row in members[:k]]
    return train, [row for members in classes.values() for row in members[k : 2 * k]]


def prefixes(folder: Path, task: str) -> list[Path]:
    """What the names of a task's draws begin with, `<folder>/<task>/<task>_<k>_<seed>`, sorted."""
    return sorted(path.with_name(path.name.removesuffix("_train.tsv")) for path in (folder / task).glob("*_train.tsv"))


def _read(path: Path, options: Options) -> Reading:
    reading = read_container(path, replace(options, quoting=False), header=HEADER)
    return reshape(path, reading, _shape)


def _shape(fields: dict[str, Any] | Any) -> dict[str, Any]:
    text, output = fields.get("input"), fields.get("output")
    if not isinstance(text, str) or not isinstance(output, str):
        raise Misshapen("output", "the line is not input<TAB>output", "Write it again with CrossFit's scripts")
    before, choices = marked_choices(text)
    if not choices:
        return {INPUT: text, LABEL: output}
    label = output.strip()
    if label not in choices:
        trimmed = tuple(choice.removesuffix(" or") for choice in choices)  # "(A) first or (B) second"
        choices = trimmed if label in trimmed else choices
    index = letter_index(label)
    if index is not None and label not in choices and index < len(choices):
        label = choices[index]
    return {INPUT: before, CHOICES: list(choices), LABEL: label}


def marked_choices(text: str) -> tuple[str, tuple[str, ...]]:
    """A line without the choices that it lists, and these; (text, ()) if it lists none.

    They stand behind (A) (B) …, or (1) (2) …, with or without spaces; a context may follow the last after "[SEP]".
    """
    before, choices = lettered_choices(text)
    for marks in ("ABCDEFGHIJ", "123456789"):
        before, choices = (before, choices) if choices else _between(text, marks)
    if not choices:
        return text, ()
    last, separator, context = choices[-1].partition(" [SEP] ")
    return (f"{before}{separator}{context}".strip(), (*choices[:-1], last.strip())) if separator else (before, choices)


def _between(text: str, marks: str) -> tuple[str, tuple[str, ...]]:
    before, _, rest = text.partition(f"({marks[0]})")
    choices = []
    for mark in marks[1:]:
        choice, found, rest_of = rest.partition(f"({mark})")
        if not found:
            break
        choices.append(choice.strip())
        rest = rest_of
    return (before.strip(), (*choices, rest.strip())) if choices else (text, ())


FORMAT = Format("a file of CrossFit's few-shot gym (input, a tab, output)", _read)
