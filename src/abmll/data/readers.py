"""Reading one task: from a JSONL, CSV or TSV file (each also .gz), or through a TOML spec."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from abmll.core.errors import printable
from abmll.core.example import Example
from abmll.data.checks import check_rows
from abmll.data.formats import TABLE, find_format
from abmll.data.formats.container import read_container
from abmll.data.layout import Layout
from abmll.data.overlap import input_key
from abmll.data.placing import PlacedExample, place_examples
from abmll.data.problems import Problem, errors, raise_errors
from abmll.data.rows import task_name
from abmll.data.sides import support_lines
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

    Args:
        name: take precedence over the file's name and over a spec's.
        question: likewise.
        family: likewise.
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

    Args:
        path: where the spec stands, or the data file itself.
        problems: what is known to be wrong already.
    """
    problems = list(problems)
    if printable(path.name) != path.name:
        broken = any("\ud800" <= character <= "\udfff" for character in path.name)
        what = "is not UTF-8" if broken else "holds characters that no terminal prints"
        problems.append(Problem(printable(path.name), 0, "", f"the file's name {what}", "Rename it"))
        return ParsedTask(None, (), tuple(problems))
    name = name or spec.name or task_name(path)
    # The support pool's rows get ids of their own, whatever line they stand on.
    read = [
        _parse_file(file, spec, prefix, spec.layout(labelled, known_choices))
        for file, prefix in zip(files, (name, f"{name}:support"), strict=False)
    ]
    placed = tuple(row for file in read for row in file.placed)
    problems += [problem for file in read for problem in file.problems]
    first, support = read[0], read[0].support if len(read) == 1 else frozenset()
    examples = tuple(example for line, example in first.placed if line not in support)
    if len(read) > 1:
        pool = tuple(example for _, example in read[1].placed)
    else:
        pool = tuple(example for line, example in first.placed if line in support)
    if pool and not errors(problems):
        pool, found = _apart(path.name, examples, pool, "support_file" if len(read) > 1 else "split")
        problems += found
    if not examples and not errors(problems):
        problems.append(
            Problem(path.name, 0, "", "no row is left to be evaluated on", "Add rows, or leave the file out")
        )
    if errors(problems):
        return ParsedTask(None, placed, tuple(problems))
    task = Task(
        name=name,
        examples=examples,
        question=(spec.question or first.question) if question is None else question,
        family=spec.family if family is None else family,
        source=str(path),
        support_pool=pool,
    )
    return ParsedTask(task, placed, tuple(problems), tuple(spec.shares_rows_with))


class _File(NamedTuple):
    """What one file gave. question: the one that it asks itself. support: lines of the rows that are adapted on."""

    placed: list[PlacedExample]
    problems: list[Problem]
    question: str = ""
    support: frozenset[int] = frozenset()


def _parse_file(path: Path, spec: TaskSpec, name: str, layout: Layout) -> _File:
    options = spec.options(layout.labelled)
    reading = read_container(path, options) if spec.format == TABLE else find_format(spec.format).read(path, options)
    rows, problems = reading.rows, list(reading.problems)
    if not rows:
        return _File([], problems)
    layout = reading.columns.complete(layout)
    placed, found = place_examples(path.name, rows, layout, table=reading.table, whole=not errors(problems), name=name)
    problems += found
    # Findings about all rows together would mislead while some rows are missing.
    support: frozenset[int] = frozenset()
    if not errors(problems):
        told = any("differ only in how they are written" in problem.message for problem in problems)
        found = check_rows(path.name, placed, labelled=layout.labelled)
        problems += [problem for problem in found if not (told and "differ only in how" in problem.message)]
        # A file that is only predicted is predicted whole.
        if layout.labelled and spec.support_file is None:
            support, found = support_lines(path.name, rows, spec.split)
            problems += found
    return _File(placed, problems, reading.question, support)


def _apart(
    file: str, examples: tuple[Example, ...], pool: tuple[Example, ...], key: str
) -> tuple[tuple[Example, ...], list[Problem]]:
    """The support pool without inputs that the rows to be evaluated on have too, and what is wrong between the two."""
    problems = []
    evaluated = {input_key(row.prompt) for row in examples}
    kept = tuple(row for row in pool if input_key(row.prompt) not in evaluated)
    if len(kept) < len(pool):
        whose = "of the support file" if key == "support_file" else "for training"
        message = f"{len(pool) - len(kept)} rows {whose} have an input that is evaluated on; they are left out"
        cure = "Remove them from one of the files" if key == "support_file" else "Remove them from one side"
        problems.append(Problem(file, 0, key, message, cure, "warning"))
    choices = [{row.choices for row in rows} for rows in (examples, pool)]
    if all(len(found) == 1 for found in choices) and choices[0] != choices[1]:
        ours, theirs = (", ".join(map(repr, *found)) for found in choices)
        message = f"the choices are {ours} in the one file and {theirs} in the other"
        problems.append(Problem(file, 0, "choices", message, "List all choices under choices in the spec"))
    return kept, problems
