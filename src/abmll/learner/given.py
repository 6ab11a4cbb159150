"""A task's rows from whatever a user has: texts and labels, examples, a task, a file, a table."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from abmll.core.errors import AbmllError
from abmll.core.types import Example
from abmll.data.columns import (
    CHOICES_NAMES,
    ID_NAMES,
    INPUT_NAMES,
    LABEL_NAMES,
    OTHER_INPUTS,
    OTHER_LABELS,
    TARGET_NAMES,
    named,
)
from abmll.data.episodes import balanced_order, permutation
from abmll.data.readers import read_task
from abmll.data.suite import Suite
from abmll.data.task import Task
from abmll.learner.labels import Label, Labels, labels_of
from abmll.rules import plain


@dataclass(frozen=True)
class TaskRows:
    """Rows of one task.

    Attributes:
        name: of the task.
        question: what is asked of every row.
        rows: the rows, each with the task's question where it has none of its own.
        labels: the task's classes; None if every row has choices of its own.
    """

    name: str
    question: str
    rows: tuple[Example, ...]
    labels: Labels | None

    def drawn(self, support_size: int | None, seed: int, *, balanced: bool = True) -> TaskRows:
        """A support set: `support_size` of the rows, drawn by `seed`, with equally many of every class if `balanced`.

        None takes all rows, as they come. Raises: AbmllError if there are not so many rows.
        """
        if support_size is None:
            return self
        if support_size > len(self.rows):
            raise AbmllError(
                f"support_size is {support_size}, but task {self.name!r} has {len(self.rows)} labelled rows. Leave "
                "support_size out to adapt to all of them."
            )
        pool = [self.rows[place] for place in permutation(len(self.rows), "adapt", seed, self.name)]
        order = balanced_order(pool) if balanced else range(len(pool))
        return replace(self, rows=tuple(pool[place] for place in order[:support_size]))


def labelled_rows(
    data: Any,
    labels: Any = None,
    *,
    question: str | None = None,
    classes: Sequence[Any] | Mapping[Any, str] | None = None,
    name: str | None = None,
) -> TaskRows:
    """The labelled rows in `data`. See `Learner.adapt` for what it may be.

    Raises:
        AbmllError: If a row has no label, the labels do not fit the rows, or `data` is nothing that can be read.
    """
    if isinstance(data, TaskRows):
        return data
    if labels is not None:
        texts = _texts(_column(data, INPUT_NAMES, "texts") if _is_table(data) else data)
        column = _columns(data) if isinstance(labels, str) and _is_table(data) else {}
        if isinstance(labels, str) and labels not in column:
            raise AbmllError(f"labels is the text {labels!r}: give one label for each text.")
        values = _listed(column[labels] if isinstance(labels, str) else labels, "labels")
        return _classified(texts, values, question or "", classes, name)
    if classes is not None and not _is_table(data):
        raise AbmllError("classes goes with texts and labels; the rows given bring their own choices.")
    task = _task(data, question, name, labelled=True) if not _is_table(data) else None
    if task is None:
        return _from_table(data, question or "", classes, name, labelled=True)
    rows = task.support_pool or task.examples
    unlabelled = [index for index, row in enumerate(rows) if row.target is None]
    if unlabelled:
        raise AbmllError(
            f"{len(unlabelled)} of {len(rows)} rows of task {task.name!r} have no label, the first of them row "
            f"{unlabelled[0]}: label them, or leave them out."
        )
    words = rows[0].choices
    own = any(row.choices != words for row in rows)
    return TaskRows(task.name, task.question, rows, None if own else Labels(words, words))


def rows_to_predict(data: Any, task: TaskRows | None) -> tuple[Example, ...]:
    """The rows in `data`, labelled or not; what they do not say of their question and classes is the task's.

    Raises:
        AbmllError: If `data` is nothing that can be read, or texts come without classes.
    """
    question, labels = (task.question, task.labels) if task is not None else ("", None)
    if _is_table(data) and not _has_choices(data):
        texts = _texts(_column(data, INPUT_NAMES, "texts"))
        ids = _columns(data).get(next((n for n in ID_NAMES if n in _columns(data)), ""), range(len(texts)))
        rows = _asked(texts, question, labels, [str(plain(one)) for one in ids])
    elif _is_table(data):
        rows = _from_table(data, question, None, None, labelled=False).rows
    elif isinstance(data, (str, os.PathLike, Task, Suite)) or _holds(data, Example):
        known = labels.words if labels is not None else ()
        found = _task(data, None, None, labelled=False, known=known)
        rows = found.examples
    else:
        rows = _asked(_texts(data), question, labels, None)
    return tuple(row if row.question else row._replace(question=question) for row in rows)


def _asked(texts: list[str], question: str, labels: Labels | None, ids: Sequence[str] | None) -> tuple[Example, ...]:
    if labels is None:
        raise AbmllError(
            "texts alone do not say what can be answered, and the task that was adapted to has no classes. Give "
            'examples with their choices: abmll.Example(text, ["a", "b"]).'
        )
    ids = ids if ids is not None else list(map(str, range(len(texts))))
    return tuple(Example(text, labels.words, None, question, id) for text, id in zip(texts, ids, strict=True))


def _classified(texts: list[str], labels: list[Any], question: str, classes: Any, name: str | None) -> TaskRows:
    if len(texts) != len(labels):
        raise AbmllError(f"{len(texts)} texts and {len(labels)} labels: give one label for each text.")
    if not texts:
        raise AbmllError("there are no rows to adapt to: give at least one labelled text.")
    found = labels_of(labels, classes)
    rows = [
        Example(text, found.words, found.target(label, row), question, str(row))
        for row, (text, label) in enumerate(zip(texts, labels, strict=True))
    ]
    return TaskRows(name or "task", question, tuple(rows), found)


def _task(data: Any, question: str | None, name: str | None, *, labelled: bool, known: Sequence[str] = ()) -> Task:
    if isinstance(data, Task):
        return data if question is None and name is None else _renamed(data, question, name)
    if isinstance(data, Suite):
        raise AbmllError(f"{data.name!r} is a suite of {len(data.tasks)} tasks: give one of them, suite.task(NAME).")
    if isinstance(data, (str, os.PathLike)):
        path = Path(data)
        if not path.exists():
            raise AbmllError(f"there is no file {os.fspath(data)!r}. If it is a text, put it into a list.")
        if path.is_dir() and (path / "dataset_info.json").is_file():
            raise AbmllError(f"{path} is a folder of the datasets library: read it with datasets.load_from_disk first.")
        return read_task(path, question=question, name=name, labelled=labelled, known_choices=known)
    if isinstance(data, Example):
        raise AbmllError("one example was given where a list of them is needed: put it into a list.")
    rows = _listed(data, "rows")
    if not rows:
        raise AbmllError("there are no rows: the list is empty. Give at least one.")
    wrong = next((index for index, row in enumerate(rows) if not isinstance(row, Example)), None)
    if wrong is not None:
        hint = " Give their labels too: adapt(texts, labels)." if isinstance(rows[wrong], str) else ""
        raise AbmllError(f"row {wrong} is {type(rows[wrong]).__name__}, not an abmll.Example.{hint}")
    asked = {row.question for row in rows}  # of rows that are asked different things, none is the task's
    return Task(name or "task", tuple(rows), question or (asked.pop() if len(asked) == 1 else ""))


def _renamed(task: Task, question: str | None, name: str | None) -> Task:
    def asked(rows: tuple[Example, ...]) -> tuple[Example, ...]:
        return rows if question is None else tuple(row._replace(question=question) for row in rows)

    return replace(
        task,
        name=name or task.name,
        question=task.question if question is None else question,
        examples=asked(task.examples),
        support_pool=asked(task.support_pool),
    )


# Tables: rows as mappings, mappings of columns, frames of pandas or polars, Arrow tables, Hugging Face data sets.


def _is_table(data: Any) -> bool:
    if isinstance(data, (str, bytes, os.PathLike, Task, Suite, Example)):
        return False
    return isinstance(data, Mapping) or hasattr(data, "column_names") or _is_frame(data) or _holds(data, Mapping)


def _is_frame(data: Any) -> bool:
    return hasattr(data, "columns") and hasattr(data, "__getitem__")


def _holds(data: Any, kind: type) -> bool:
    """Whether `data` is a sequence whose first item is of this kind."""
    return isinstance(data, Sequence) and len(data) > 0 and not isinstance(data, str) and isinstance(data[0], kind)


def _columns(data: Any) -> dict[str, list[Any]]:
    """The table's columns. A column of class numbers that knows its names holds the names."""
    if hasattr(data, "column_names"):
        if isinstance(data.column_names, Mapping):
            raise AbmllError(f"this holds several data sets: choose one of {', '.join(map(repr, data.column_names))}.")
        columns = {name: _values(data[name]) for name in data.column_names or ()}
        for name, feature in (getattr(data, "features", None) or {}).items():
            words = getattr(feature, "names", None)
            if words and name in columns:
                columns[name] = [None if value in (None, -1) else words[value] for value in columns[name]]
        return columns
    if _is_frame(data):
        return {str(name): _values(data[name]) for name in data.columns}
    if isinstance(data, Mapping):
        if any(isinstance(values, (str, int, float)) for values in data.values()):
            raise AbmllError("one row was given where a list of them is needed: put it into a list.")
        return {str(name): list(values) for name, values in data.items()}
    rows = list(data)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: [row.get(name) for row in rows] for name in names}


_OTHERS: dict[Sequence[str], Sequence[str]] = {INPUT_NAMES: OTHER_INPUTS, LABEL_NAMES: OTHER_LABELS}
"""Names that are taken where no column has a usual one."""


def _values(column: Any) -> list[Any]:
    return column.to_pylist() if hasattr(column, "to_pylist") else list(column)


def _found(columns: Mapping[str, Any], usual: Sequence[str]) -> str | None:
    """The column with one of the usual names. Raises: AbmllError if several have."""
    for names in (usual, _OTHERS.get(usual, ())):
        found = named(columns, names)
        if len(found) > 1:
            raise AbmllError(
                f"the columns {' and '.join(map(repr, found))} could each be meant: give the columns themselves, texts "
                "and labels, or leave one of them out."
            )
        if found:
            return found[0]
    return None


def _column(data: Any, usual: Sequence[str], what: str) -> list[Any]:
    columns = _columns(data)
    name = _found(columns, usual)
    if name is None:
        raise AbmllError(
            f"no column holds the {what}: looked for {', '.join(usual)}, found {', '.join(columns) or 'none'}. Rename "
            "one, or give the columns themselves: texts, labels."
        )
    return columns[name]


def _has_choices(data: Any) -> bool:
    columns = _columns(data)
    return _found(columns, CHOICES_NAMES) is not None


def _from_table(data: Any, question: str, classes: Any, name: str | None, *, labelled: bool) -> TaskRows:
    columns = _columns(data)
    texts = _texts(_column(data, INPUT_NAMES, "texts"))
    label = _found(columns, LABEL_NAMES)
    if not _has_choices(data):
        return _classified(texts, _column(data, LABEL_NAMES, "labels"), question, classes, name)
    choices = columns[_found(columns, CHOICES_NAMES) or ""]
    target = _found(columns, TARGET_NAMES)
    if labelled and target is None and label is None:
        _column(data, LABEL_NAMES, "labels")
    rows = []
    for index, text in enumerate(texts):
        own = tuple(choices[index]) if isinstance(choices[index], Iterable) else ()
        right = plain(columns[target][index]) if target is not None else None
        if right is None and label is not None and columns[label][index] is not None:
            right = Labels(own, own).target(columns[label][index], index)
        rows.append(Example(text, own, right, question, str(index)))
    task = Task(name or "task", tuple(rows), question)
    if labelled:
        return labelled_rows(task)
    return TaskRows(task.name, question, task.examples, None)


def _texts(data: Any) -> list[str]:
    texts = _listed(data, "texts")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            what = "missing" if text is None or text != text else f"{type(text).__name__}, not text"
            raise AbmllError(f"texts[{index}] is {what}. Give a list of texts, and leave out rows without one.")
    return [str(text) for text in texts]


def _listed(data: Any, what: str) -> list[Any]:
    """A one-dimensional column as a list: a sequence, an array, a series, an iterator."""
    if isinstance(data, (str, bytes)):
        raise AbmllError(f"{what} is one text where a list is needed: put it into a list.")
    if isinstance(data, Mapping) or not isinstance(data, Iterable):
        raise AbmllError(f"{what} is {type(data).__name__}: give a list of them, such as a list of texts.")
    if len(getattr(data, "shape", (0,))) != 1:
        raise AbmllError(f"{what} has the shape {tuple(data.shape)}: give one column.")  # type: ignore[attr-defined]
    return list(data)


def names_of(rows: Sequence[Example], labels: Labels | None) -> list[tuple[Label, ...]]:
    """The choices of every row as the user calls them."""
    names: dict[str, Label] = dict(zip(labels.words, labels.names, strict=True)) if labels is not None else {}
    return [tuple(names.get(choice, choice) for choice in row.choices) for row in rows]
