"""Small tasks in words that the tiny tokenizer knows, made on the spot."""

from __future__ import annotations

from abmll.core.types import Example
from abmll.data.task import Task

WORDS = ("good", "bad", "the cat", "the mat", "the film", "true", "not true", "it")


def tiny_task(name: str = "reviews", count: int = 24, *, family: str = "", choices=("negative", "positive")) -> Task:
    """A word says the class: "good" is the last of the choices, "bad" the first."""
    rows = []
    for index in range(count):
        filler = " ".join(WORDS[2 + (index * step) % 6] for step in (1, 3))
        target = index % len(choices)
        rows.append(Example(f"{filler} {WORDS[1 - target % 2]} {index}", choices, target, id=f"{name}/{index}"))
    return Task(name, tuple(rows), f"{name}: positive or negative?", family)


def tiny_tasks(count: int = 3) -> list[Task]:
    return [tiny_task(f"task-{number}", family=f"family-{number % 2}") for number in range(count)]
