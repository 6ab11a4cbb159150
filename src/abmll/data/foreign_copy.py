"""A task that was read from somewhere else, as rows of our own and the spec that reads them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from abmll.core.example import Example
from abmll.data.foreign import Found
from abmll.data.spec import TaskSpec


def copied(found: Found, folder: Path) -> tuple[Found, dict[Path, str]]:
    """What was found, now reading files in `folder`, and what belongs into these: JSON Lines."""
    assert found.spec is not None
    assert found.parsed is not None
    task = found.parsed.task
    assert task is not None
    file, support = (folder.resolve() / f"{task.name}{end}" for end in (".jsonl", ".support.jsonl"))
    written = {file: _lines(task.examples)}
    if task.support_pool:
        written[support] = _lines(task.support_pool)
    spec = TaskSpec(
        file=str(file),
        support_file=str(support) if task.support_pool else None,
        name=task.name,
        question=task.question,
        family=task.family,
    )
    return replace(found, spec=spec, guesses=()), written


def _lines(examples: Sequence[Example]) -> str:
    return "".join(json.dumps(_row(example), ensure_ascii=False) + "\n" for example in examples)


def _row(example: Example) -> dict[str, object]:
    fields = {"id": example.id, "input": example.prompt, "options": list(example.choices)}
    return fields | {"target": example.target}
