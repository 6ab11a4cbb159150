"""A hub task from the cache, without a network."""

from __future__ import annotations

from pathlib import Path

from abmll.core.errors import AbmllError
from abmll.core.example import Example
from abmll.data.gathered import task_of
from abmll.data.hub.cache import require_files
from abmll.data.hub.crossfit import crossfit_rows
from abmll.data.hub.spec import HubSpec, hub_spec
from abmll.data.overlap import normalised
from abmll.data.problems import errors, raise_errors
from abmll.data.readers import parse_spec
from abmll.data.task import Task


def read_hub_task(name: str, cache: Path | None = None) -> Task:
    """The task of a shipped spec, from files that `abmll tasks fetch` has brought into the cache.

    Its evaluated rows are the spec's `judge` split; support sets are drawn from `support`, without inputs that are
    evaluated on. A CrossFit task adapts on the rows that CrossFit draws for training, of all seeds.
    Raises AbmllError if a file is not in the cache, or does not hold what the spec says.
    """
    spec = hub_spec(name)
    if spec.crossfit is not None:
        task = task_of(spec.name, crossfit_rows(spec, held_out=True, cache=cache))
        if task is None:
            raise AbmllError(
                f"the task {name!r} has no rows with choices: its set was changed; update abmll, or report it"
            )
        return task
    evaluated = _examples(spec, spec.judge, cache)
    pool = [] if spec.support is None else _examples(spec, spec.support, cache)
    tested = {normalised(row.prompt) for row in evaluated}
    support = tuple(row for row in pool if normalised(row.prompt) not in tested)
    return Task(spec.name, tuple(evaluated), spec.question, spec.family, f"{spec.repo} ({spec.revision})", support)


def _examples(spec: HubSpec, split: str, cache: Path | None) -> list[Example]:
    files = require_files(spec, split, cache)
    rows: list[Example] = []
    for number, file in enumerate(files):
        label = f"{spec.name}:{split}" + (f":{number}" if len(files) > 1 else "")
        parsed = parse_spec(file, spec.task_spec(str(file)), [file], name=label)
        raise_errors(file, errors(parsed.problems))
        rows += [row.example for row in parsed.placed]
    return rows
