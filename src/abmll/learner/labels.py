"""The classes of a task: what the user calls them, and the words that the model reads for them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from abmll.core.errors import AbmllError
from abmll.rules import in_toml, plain

Label = str | int | float | bool
"""What a user calls an answer."""


@dataclass(frozen=True)
class Labels:
    """The classes of a task.

    Attributes:
        names: what the user calls them; what predictions are told in.
        words: what the model reads and answers, in the same order.
    """

    names: tuple[Label, ...]
    words: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.words) < 2:
            only = f", {self.names[0]!r}" if self.names else ""
            raise AbmllError(
                f"there is one class only{only}: add rows of the others, or name them all with classes=[...]."
                if self.names
                else "there are no classes: name them with classes=[...]."
            )
        twice = sorted({word for word in self.words if self.words.count(word) > 1})
        if twice:
            raise AbmllError(
                f"two classes have the same word {twice[0]!r}: give each a word of its own in classes={{...}}."
            )
        if any(not word.strip() for word in self.words):
            raise AbmllError("a class is an empty text: give it a word in classes={...}.")

    def target(self, label: Any, row: int) -> int:
        """The index of a label. Raises: AbmllError if it is no class; `row` is for the message."""
        name = checked_label(label, row)
        for index, known in enumerate(self.names):
            if known == name and isinstance(known, bool) == isinstance(name, bool):
                return index
        if isinstance(name, str) and name in self.words:
            return self.words.index(name)
        raise AbmllError(
            f"labels[{row}] is {in_toml(name)}, which is none of the classes: {', '.join(map(in_toml, self.names))}."
        )


def checked_label(label: Any, row: int) -> Label:
    """A label as plain Python has it. Raises: AbmllError for what can be no label: nothing, a fraction, a list."""
    name = plain(label)
    if (isinstance(name, float) and (not math.isfinite(name) or name != int(name))) or name is None:
        what = "missing" if name is None or (isinstance(name, float) and math.isnan(name)) else in_toml(name)
        cure = "Leave the row out, or label it." if what == "missing" else "Labels are classes: texts or whole numbers."
        raise AbmllError(f"labels[{row}] is {what}. {cure}")
    if not isinstance(name, (str, int, float, bool)):
        raise AbmllError(
            f"labels[{row}] is {type(label).__name__}: labels are texts, whole numbers, or true and false."
        )
    return str(name) if type(name) is not str and isinstance(name, str) else name


def labels_of(found: Sequence[Any], classes: Sequence[Any] | Mapping[Any, str] | None = None) -> Labels:
    """The classes of a column of labels.

    Args:
        found: the labels of the rows.
        classes: all classes, in the order wanted, if not every one of them is among `found`; or a mapping from each
            label to the word that the model reads for it. Without it, the labels that are there, sorted.

    Raises:
        AbmllError: If there are fewer than two classes, two have one word, or a label can be none.
    """
    if isinstance(classes, str):
        raise AbmllError(
            f"classes is the text {classes!r}: give a list of all classes, or a mapping from labels to words."
        )
    if isinstance(classes, Mapping):
        names = tuple(_class(label) for label in classes)
        for label, word in classes.items():
            if not isinstance(word, str):
                raise AbmllError(f"classes[{label!r}] is {in_toml(word)}: the word that the model reads must be text.")
        return Labels(names, tuple(classes.values()))
    if classes is not None:
        names = tuple(_class(label) for label in classes)
        return Labels(names, tuple(map(word_of, names)))
    distinct = list(
        dict.fromkeys((type(name) is bool, name) for name in (checked_label(one, row) for row, one in enumerate(found)))
    )
    labels = [name for _, name in distinct]
    if len(found) > 8 and len(labels) > len(found) / 2:
        raise AbmllError(
            f"{len(found)} rows have {len(labels)} different labels: is this the right column? If it is, name all "
            "classes with classes=[...]."
        )
    try:
        labels.sort()
    except TypeError:
        labels.sort(key=lambda label: (str(type(label)), str(label)))
    return Labels(tuple(labels), tuple(map(word_of, labels)))


def _class(label: Any) -> Label:
    name = plain(label)
    if name is None or not isinstance(name, (str, int, float, bool)):
        raise AbmllError(f"classes holds {in_toml(name)}: a class is text, a whole number, or true or false.")
    return name


def word_of(label: Label) -> str:
    """The word that the model reads for a label: the text itself, or the number's."""
    return str(int(label)) if isinstance(label, float) and label == int(label) else str(label).strip()
