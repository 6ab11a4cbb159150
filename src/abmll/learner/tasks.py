"""The tasks that a person names for training or judging: objects, a suite, its folder or its name."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from abmll.core.errors import AbmllError
from abmll.data.suite import Suite, load_suite
from abmll.data.task import Task

Tasks = Sequence[Task] | Suite | str | PathLike[str]
"""Tasks, a suite, a folder of task files, a suite TOML, or the name of a suite."""


def _suite(tasks: str | PathLike[str] | Suite) -> Suite:
    if isinstance(tasks, Suite):
        return tasks
    from abmll import default

    return default.find_suite(str(tasks)) if not Path(tasks).exists() else load_suite(Path(tasks))


def training_tasks(tasks: Any) -> tuple[Task, ...]:
    """The tasks to train on. Raises: AbmllError if there are none, one is no task, or one has unlabelled rows."""
    if isinstance(tasks, (str, PathLike, Suite)):
        return _suite(tasks).require("train")
    found = (tasks,) if isinstance(tasks, Task) else tuple(tasks)
    wrong = next((one for one in found if not isinstance(one, Task)), None)
    if wrong is not None:
        raise AbmllError(
            f"meta_train needs tasks, and found {type(wrong).__name__}: give abmll.Task objects, a suite or its folder."
        )
    unlabelled = [
        task.name for task in found if any(row.target is None for row in (*task.examples, *task.support_pool))
    ]
    if unlabelled:
        raise AbmllError(
            f"tasks with unlabelled rows cannot be trained on: {', '.join(unlabelled)}. Label them or leave them out."
        )
    return found


def held_out_tasks(tasks: Tasks) -> Sequence[Task]:
    """The tasks to be evaluated on: those given, or the test side of a suite."""
    if isinstance(tasks, (str, PathLike, Suite)):
        return _suite(tasks).require("test")
    return (tasks,) if isinstance(tasks, Task) else tasks
