"""Tasks that a learner is given, looked at before its model is: every row that would stop the work is told at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from abmll.data.task import Task
from abmll.language.context import context_of
from abmll.language.preflight import row_mistakes
from abmll.rules import raise_all

if TYPE_CHECKING:
    from abmll.learner.given import TaskRows
    from abmll.learner.learner import Learner

_PASSED: WeakValueDictionary[tuple[Any, ...], Task] = WeakValueDictionary()
"""Tasks in which nothing was found, so that a search over many learners looks at each only once."""


def require_tasks(learner: Learner, tasks: Iterable[Task]) -> None:
    """Raises AbmllError for all rows that the model cannot be given, by file, task and row, and for too many tasks."""
    mistakes: list[str] = []
    tasks, room = list(tasks), getattr(learner.method.meta_learner, "num_loras", None)
    if room is not None and len(tasks) > room:
        mistakes.append(
            f"{len(tasks)} training tasks, and room for {room} LoRAs in the library of {learner.name!r}: set "
            f"num_loras={len(tasks)}, or train on fewer tasks"
        )
    for task in tasks:
        key = (id(task), id(learner.tokenizer), learner.prompt, _context(learner))
        if _PASSED.get(key) is task:
            continue
        found = row_mistakes(task.place, task.all_rows, learner.tokenizer, learner.prompt, _context(learner))
        mistakes += found
        if not found:
            _PASSED[key] = task
    raise_all(mistakes)


def require_rows(learner: Learner, task: TaskRows) -> None:
    """The same for the rows that a task is adapted to."""
    raise_all(row_mistakes(f"task {task.name!r}", task.rows, learner.tokenizer, learner.prompt, _context(learner)))


def _context(learner: Learner) -> int | None:
    return context_of(learner.model.get_base_model())
