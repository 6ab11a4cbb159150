"""Reading one task: from a JSONL, CSV or TSV file (each also .gz), or through a TOML spec."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from abmll.core.types import Example
from abmll.data.checks import check_rows
from abmll.data.formats import TABLE, find_format
from abmll.data.formats.container import read_container
from abmll.data.layout import Layout
from abmll.data.overlap import input_key
from abmll.data.placing import PlacedExample, place_examples
from abmll.data.problems import Problem, errors, raise_errors
from abmll.data.rows import task_name
from abmll.data.spec import TaskSpec, read_spec, spec_files
from abmll.data.task import Task


@dataclass(frozen=True)
class ParsedTask:
    """All that a file gave: rows with their lines, and problems. `task` is None if one of them is an error."""

    task: Task | None
    placed: tuple[PlacedExample, ...]
    problems: tuple[Problem, ...]
    shares_rows_with: tuple[str, ...] = ()


def read_task(
    path: str | Path,
    *,
    name: str | None = None,
    question: str | None = None,
    family: str | None = None,
    labelled: bool = True,
    known_choices: Sequence[str] = (),
) -> Task:
    """The task in a data file or a TOML spec.

    Rows are {"id"?, "input" | "prompt" | "text", "options" | "choices", "target" | "label" | "answer"}:
    `target` is the right choice's index, `label` its text. In CSV and TSV the choices are one cell with `|`
    between, or columns choice_0, choice_1, …; if there are none, the choices are all labels of the file,
    sorted.

    name, question, family: take precedence over the file's name and over a spec's.
    labelled: False also takes rows without a label, whose target is then None (for prediction).
    known_choices: the choices, if the file names none: what a task is known to have, in place of the file's labels.

    Raises AbmllError with the first 10 problems (file, line, field, what was found, what to do) and how many
    more.
    """
    parsed = parse_task(
        Path(path), name=name, question=question, family=family, labelled=labelled, known_choices=known_choices
    )
    raise_errors(path, parsed.problems)
    assert parsed.task is not None
    return parsed.task


def parse_task(
    path: Path,
    *,
    name: str | None = None,
    question: str | None = None,
    family: str | None = None,
    labelled: bool = True,
    known_choices: Sequence[str] = (),
) -> ParsedTask:
    """Like `read_task`, but returns what was found instead of raising."""
    problems: list[Problem] = []
    if path.suffix.lower() == ".toml":
        spec, problems = read_spec(path)
        if spec is None or errors(problems):
            return ParsedTask(None, (), tuple(problems))
        files = spec_files(path, spec)
    else:
        spec, files = TaskSpec(file=path.name), [path]
    return parse_spec(path, spec, files, problems, name, question, family, labelled, known_choices)


def parse_spec(
    path: Path,
    spec: TaskSpec,
    files: Sequence[Path],
    problems: Sequence[Problem] = (),
    name: str | None = None,
    question: str | None = None,
    family: str | None = None,
    labelled: bool = True,
    known_choices: Sequence[str] = (),
) -> ParsedTask:
    """What a spec makes of its files: of the rows, and of the support pool's if there are two.

    path: where the spec stands, or the data file itself. problems: what is known to be wrong already.
    """
    problems = list(problems)
    name = name or spec.name or task_name(path)
    # The support pool's rows get ids of their own, whatever line they stand on.
    read = [
        _parse_file(file, spec, prefix, spec.layout(labelled, known_choices))
        for file, prefix in zip(files, (name, f"{name}:support"), strict=False)
    ]
    placed = tuple(row for rows, _, _ in read for row in rows)
    problems += [problem for _, found, _ in read for problem in found]
    examples, pool = (tuple(row.example for row in rows) for rows, _, _ in [*read, ([], [], "")][:2])
    if pool and not errors(problems):
        pool, found = _apart(path.name, examples, pool)
        problems += found
    if errors(problems):
        return ParsedTask(None, placed, tuple(problems))
    task = Task(
        name=name,
        examples=examples,
        question=(spec.question or read[0][2]) if question is None else question,
        family=spec.family if family is None else family,
        source=str(path),
        support_pool=pool,
    )
    return ParsedTask(task, placed, tuple(problems), tuple(spec.shares_rows_with))


def _parse_file(
    path: Path, spec: TaskSpec, name: str, layout: Layout
) -> tuple[list[PlacedExample], list[Problem], str]:
    """The file's examples, what is wrong with it, and the question that the file itself asks."""
    options = spec.options(layout.labelled)
    reading = read_container(path, options) if spec.format == TABLE else find_format(spec.format).read(path, options)
    rows, problems = reading.rows, list(reading.problems)
    if not rows:
        return [], problems, ""
    layout = reading.columns.complete(layout)
    placed, found = place_examples(path.name, rows, layout, table=reading.table, whole=not errors(problems), name=name)
    problems += found
    # Findings about all rows together would mislead while some rows are missing.
    if not errors(problems):
        told = any("differ only in how they are written" in problem.message for problem in problems)
        found = check_rows(path.name, placed, labelled=layout.labelled)
        problems += [problem for problem in found if not (told and "differ only in how" in problem.message)]
    return placed, problems, reading.question


def _apart(
    file: str, examples: tuple[Example, ...], pool: tuple[Example, ...]
) -> tuple[tuple[Example, ...], list[Problem]]:
    """The support pool without inputs that the rows to be judged on have too, and what is wrong between the two."""
    problems = []
    judged = {input_key(row.prompt) for row in examples}
    kept = tuple(row for row in pool if input_key(row.prompt) not in judged)
    if len(kept) < len(pool):
        message = f"{len(pool) - len(kept)} rows of the support file have an input that is judged on; they are left out"
        problems.append(Problem(file, 0, "support_file", message, "Remove them from one of the files", "warning"))
    choices = [{row.choices for row in rows} for rows in (examples, pool)]
    if all(len(found) == 1 for found in choices) and choices[0] != choices[1]:
        ours, theirs = (", ".join(map(repr, *found)) for found in choices)
        message = f"the choices are {ours} in the one file and {theirs} in the other"
        problems.append(Problem(file, 0, "choices", message, "List all choices under choices in the spec"))
    return kept, problems
