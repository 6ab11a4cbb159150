"""A task as data: named, labelled rows that a model adapts to and is evaluated on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from abmll.core.errors import AbmllError, printable, shown
from abmll.core.example import Example


@dataclass(frozen=True, repr=False)
class Task:
    """One classification or multiple-choice task.

    Attributes:
        name: unique within a suite.
        examples: the rows. `Example.question` is filled from `question` where a row has none of its own.
        question: what is asked of every row, e.g. "What is the sentiment of the review?".
        family: tasks of one family test the same skill; a suite holds out whole families.
        source: where the rows came from (a file, usually); for messages only.
        support_pool: if given, support sets are drawn from these rows alone and `examples` serve as queries only. It is
            how a task that comes with its own training and test files keeps that split.

    Raises AbmllError for a task without a name or without rows.
    """

    name: str
    examples: tuple[Example, ...]
    question: str = ""
    family: str = ""
    source: str = ""
    support_pool: tuple[Example, ...] = ()

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise AbmllError(f"a task from {self.source or 'memory'} has no name: give it one")
        if printable(self.name) != self.name:
            raise AbmllError(f"the task name {shown(self.name)} holds what no file and no terminal takes: rename it")
        if not self.examples:
            raise AbmllError(f"task {self.name!r} has no rows: add some, or leave the task out")
        object.__setattr__(self, "examples", self._asked(self.examples))
        object.__setattr__(self, "support_pool", self._asked(self.support_pool))

    def _asked(self, examples: tuple[Example, ...]) -> tuple[Example, ...]:
        return tuple(row if row.question else row._replace(question=self.question) for row in examples)

    def __repr__(self) -> str:
        what = f"classes {list(self.examples[0].choices)!r}" if self.is_classification else "choices of each row's own"
        pool = f", {len(self.support_pool)} more to adapt on" if self.support_pool else ""
        return f"Task({self.name!r}, {len(self)} rows{pool}, {what})"

    def __len__(self) -> int:
        """Number of rows, the support pool not counted."""
        return len(self.examples)

    @property
    def all_rows(self) -> tuple[Example, ...]:
        """Every row, those of the support pool first."""
        return (*self.support_pool, *self.examples)

    @property
    def place(self) -> str:
        """The words that messages name the task by: its name, and where its rows came from."""
        return f"task {self.name!r}" + (f" ({self.source})" if self.source else "")

    @property
    def num_choices(self) -> int:
        """The largest number of choices of any row."""
        return max(len(row.choices) for row in self.all_rows)

    @property
    def is_classification(self) -> bool:
        """True if every row has the same choices, in the same order; False for multiple choice."""
        return len({row.choices for row in self.all_rows}) == 1

    @property
    def target_counts(self) -> dict[int, int]:
        """How many rows have each target, by ascending target."""
        return dict(sorted(Counter(row.target for row in self.examples if row.target is not None).items()))
