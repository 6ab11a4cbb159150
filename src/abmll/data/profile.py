"""What a person learns about a task at a glance: rows, classes, lengths."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from abmll.core.example import Example
from abmll.data.placing import UNKNOWN_TARGET

MEASURED = 2000
"""Rows whose tokens are counted: tokenising takes time."""


@dataclass(frozen=True)
class Lengths:
    """Of all texts: the least, the median and the most."""

    least: int
    median: float
    most: int

    def of(self, what: str) -> str:
        """ "3-12 words (median 5)", or "2 words" where all have two."""
        if self.least == self.most:
            return f"{self.most:,} {what}"
        return f"{self.least:,}-{self.most:,} {what} (median {self.median:g})"


@dataclass(frozen=True)
class Profile:
    """What is in a file of labelled rows.

    Attributes:
        rows: all that could be read, those to adapt on included.
        support_rows: those to adapt on alone.
        classes: how many rows have each answer, by falling number; empty where the choices differ from row to row.
        choices: the fewest and the most of a row.
        majority: the share of the most frequent answer, or of the most frequent place of it.
        words: of the inputs.
        characters: likewise.
        tokens: likewise, those of the model that was named.
        answer_tokens: of the choices, likewise.
    """

    rows: int
    support_rows: int
    classes: dict[str, int]
    choices: tuple[int, int]
    majority: float
    words: Lengths
    characters: Lengths
    tokens: Lengths | None = None
    answer_tokens: Lengths | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people: two or three lines."""
        rows = f"{self.rows:,} row{'s' if self.rows != 1 else ''}"
        if self.support_rows:
            rows += f" ({self.rows - self.support_rows:,} to judge on, {self.support_rows:,} to adapt on)"
        if self.classes:
            counts = list(self.classes.items())
            listed = ", ".join(f"{_short(label)} ({count:,})" for label, count in counts[:8])
            more = f", … {_short(counts[-1][0])} ({counts[-1][1]:,})" if len(counts) > 8 else ""
            what = f"{len(counts)} classes: {listed}{more}"
        else:
            least, most = self.choices
            what = f"{least if least == most else f'{least} to {most}'} choices a row"
        lengths = f"texts of {self.words.of('words')}, {self.characters.of('characters')}"
        found = [f"{rows}, {what}", f"{lengths}; always the commonest answer: {self.majority:.0%} right"]
        if self.tokens is not None and self.answer_tokens is not None:
            found.append(f"{self.tokens.of('tokens')} a text, {self.answer_tokens.of('tokens')} an answer")
        return found


def profile(
    examples: Sequence[Example], support_rows: int, count_tokens: Callable[[str], int] | None = None
) -> Profile | None:
    """The profile of a task's rows; None without any."""
    if not examples:
        return None
    answers = Counter(example.target for example in examples if example.target != UNKNOWN_TARGET)
    one_set = len({example.choices for example in examples}) == 1
    classes = {}
    if one_set:
        choices = examples[0].choices
        counts = {choice: answers.get(target, 0) for target, choice in enumerate(choices)}
        classes = dict(sorted(counts.items(), key=lambda one: (-one[1], one[0])))
    tokens = answer_tokens = None
    if count_tokens is not None:
        texts = [example.prompt for example in examples[:MEASURED]]
        tokens = _lengths([count_tokens(text) for text in texts])
        distinct = dict.fromkeys(choice for example in examples[:MEASURED] for choice in example.choices)
        answer_tokens = _lengths([count_tokens(f" {choice}") for choice in list(distinct)[:MEASURED]])
    numbers = [len(example.choices) for example in examples]
    return Profile(
        rows=len(examples),
        support_rows=support_rows,
        classes=classes,
        choices=(min(numbers), max(numbers)),
        majority=max(answers.values()) / sum(answers.values()) if answers else 0.0,
        words=_lengths([len(example.prompt.split()) for example in examples]),
        characters=_lengths([len(example.prompt) for example in examples]),
        tokens=tokens,
        answer_tokens=answer_tokens,
    )


def _lengths(numbers: Sequence[int]) -> Lengths:
    return Lengths(min(numbers), statistics.median(numbers), max(numbers))


def _short(label: str) -> str:
    label = label.replace("\n", "\\n").replace("\t", "\\t")
    return label if len(label) <= 30 else f"{label[:29]}…"
