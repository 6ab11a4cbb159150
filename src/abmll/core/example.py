"""One row of a task as text, which checks itself, and the rows of one visit to a task. Loads no torch."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from abmll.core.errors import AbmllError

if TYPE_CHECKING:
    _Text = str
    _Texts = Sequence[str]
    _Index = int | None
    _Examples = Sequence["Example"]
else:  # An example checks itself, in words for people: nothing may refuse its arguments before it does.
    _Text = _Texts = _Index = _Examples = Any


class _Row(NamedTuple):
    prompt: str
    choices: tuple[str, ...]
    target: int | None = None
    question: str = ""
    id: str = ""
    demonstrations: tuple[Any, ...] = ()


class Example(_Row):
    """One row of a task, still text.

    Attributes:
        prompt: what is to be answered, without the question that all rows of a task share.
        choices: at least two different answers, none of them empty.
        target: the index of the right choice, counted from 0; None where it is not known.
        question: what is asked of every row of the task.
        id: the row's name.
        demonstrations: solved rows of the same task, shown before this one in its prompt (in-context learning).

    Raises:
        AbmllError: that says which of these is broken, what was found and what to write.
    """

    __slots__ = ()

    def __new__(
        cls,
        prompt: _Text,
        choices: _Texts,
        target: _Index = None,
        question: _Text = "",
        id: _Text = "",
        demonstrations: _Examples = (),
    ) -> Example:
        choices = checked_choices(prompt, choices)
        target = _checked_target(prompt, choices, target)
        for name, text in (("question", question), ("id", id)):
            if not isinstance(text, str):
                raise AbmllError(f"{_named(prompt)}: its {name} must be text; found {text!r}.")
        if not isinstance(demonstrations, tuple):
            demonstrations = tuple(demonstrations)
        return super().__new__(cls, prompt, choices, target, question, id, demonstrations)

    def _replace(self, **changes: Any) -> Example:
        return Example(**{**self._asdict(), **changes})

    @property
    def answer(self) -> str:
        """The right choice. Raises: AbmllError if it is not known."""
        return self.choices[self.known_target]

    @property
    def known_target(self) -> int:
        """The index of the right choice. Raises: AbmllError if it is not known."""
        if self.target is None:
            raise AbmllError(f"{_named(self.prompt)} has no label (its target is None), and one is needed here.")
        return self.target


class Episode(NamedTuple):
    """One visit to one task: adapt on `support`, be evaluated on `query`.

    Attributes:
        task: the task's name.
        support: labelled rows to adapt to.
        query: further labelled rows of the same task.
        progress: the share of meta-training that was done before this visit, 0 to 1, for schedules; set by the trainer.
        number: the task's place among those that are trained on, from 0.
    """

    task: str
    support: Sequence[Example]
    query: Sequence[Example]
    progress: float = 1.0
    number: int = 0


def _named(prompt: Any) -> str:
    text = repr(prompt)
    return f"the example {text if len(text) <= 60 else text[:57] + '...'}"


def checked_choices(prompt: Any, choices: Any) -> tuple[str, ...]:
    """The choices of an example as a tuple. Raises: AbmllError for a prompt or choices that no example may have."""
    if not isinstance(prompt, str):
        raise AbmllError(f"{_named(prompt)} is {type(prompt).__name__}, not text. Write it as text.")
    if isinstance(choices, str) or not isinstance(choices, Sequence):
        raise AbmllError(f'{_named(prompt)}: its choices must be a list such as ["no", "yes"]; found {choices!r}.')
    for choice in choices:
        if not isinstance(choice, str) or not choice.strip():
            raise AbmllError(f"{_named(prompt)}: every choice must be text, not empty; found {choice!r}.")
    if len(choices) < 2 or len(set(choices)) < len(choices):
        raise AbmllError(f"{_named(prompt)}: it needs at least two different choices; found {list(choices)!r}.")
    return choices if isinstance(choices, tuple) else tuple(choices)


def _checked_target(prompt: str, choices: tuple[str, ...], target: Any) -> int | None:
    if target is None or (type(target) is int and 0 <= target < len(choices)):
        return target
    if isinstance(target, str):
        cure = f"Write {choices.index(target)}" if target in choices else "Write the index of the right choice"
        raise AbmllError(f"{_named(prompt)}: its target is the text {target!r}, not an index. {cure}.")
    try:
        index = None if isinstance(target, bool) else operator.index(target)
    except TypeError:
        index = None
    if index is None:
        raise AbmllError(f"{_named(prompt)}: its target must be a whole number, or None; found {target!r}.")
    if not 0 <= index < len(choices):
        unknown = " Write None if the right choice is not known." if index == -1 else ""
        raise AbmllError(
            f"{_named(prompt)}: its target {index} is out of range; {len(choices)} choices are counted "
            f"0 … {len(choices) - 1}.{unknown}"
        )
    return index
