"""Looking at tasks: what a suite holds, what one task says, what is wrong with a file."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from abmll.cli.arguments import aligned, existing_file
from abmll.core.errors import AbmllError, printable

if TYPE_CHECKING:
    from abmll.core.types import Example
    from abmll.data.suite import Suite
    from abmll.data.validate import Checked

SHOWN_TEXT = 400
SHOWN_CHOICES = 10

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="List, show and check tasks.")


@app.command("list")
def list_(
    suite: Annotated[
        str, typer.Argument(metavar="[SUITE]", help="A shipped suite, a folder of task files or a suite TOML.")
    ] = "default",
    folder: Annotated[
        Path | None, typer.Option("--folder", metavar="DIR", help="Where the suite's task files lie, if elsewhere.")
    ] = None,
) -> None:
    """List the tasks of a suite, and its split.

    \b
    Examples:
      abmll tasks list
      abmll tasks list my_tasks/
    """
    found = _suite(suite, folder)
    rows = [("split", "task", "family", "rows", "choices")]
    for split, members in (("train", found.train), ("validation", found.validation), ("test", found.test)):
        rows += [(split, task.name, task.family, str(len(task)), str(task.num_choices)) for task in members]
    for line in aligned(rows):
        typer.echo(line)
    sizes = f"{len(found.train)} to train on, {len(found.validation)} for validation, {len(found.test)} held out"
    typer.echo(f"\n{found.name}: {sizes}")


@app.command()
def show(
    task: Annotated[Path, typer.Argument(metavar="TASK", help="JSONL, CSV or TSV (+.gz), or a TOML spec.")],
    rows: Annotated[int, typer.Option("-n", "--rows", min=0, metavar="N", help="How many rows to print.")] = 3,
) -> None:
    """Show a task's question, classes and first rows.

    \b
    Example:
      abmll tasks show my_task.jsonl -n 5
    """
    existing_file(task, "task file")
    from abmll.data.readers import read_task

    found = read_task(task)
    typer.echo(f"{found.name}: {len(found)} rows" + (f", family {found.family}" if found.family else ""))
    if found.question:
        typer.echo(f"Question: {found.question}")
    if found.is_classification:
        choices = found.examples[0].choices
        counts = [f"{choices[target]} ({count})" for target, count in found.target_counts.items()]
        typer.echo(f"Classes: {', '.join(counts)}")
    else:
        typer.echo(f"Multiple choice: up to {found.num_choices} choices a row")
    for example in found.examples[:rows]:
        typer.echo(_row(example))


@app.command()
def validate(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Task files, or folders of them.")],
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Count in this model's tokens, and check that they tell the choices apart."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything as one JSON object, for machines.")] = False,
) -> None:
    """Check task files, and say what is in them.

    For each file: rows, classes, lengths; then every mistake with its line, field and cure, errors before warnings
    before notes. The exit status is 1 if there is an error.

    \b
    Examples:
      abmll tasks validate my_tasks/
      abmll tasks validate reviews.csv --model smollm2
      abmll tasks validate my_tasks/ --json
    """
    from abmll.data.validate import check_task

    tokens = {} if model is None else _token_counters(model)
    files, folders = _task_files(paths)
    checked = [(file, check_task(file, **tokens)) for file in files]
    checked = [*_check_folders(folders), *checked]
    counts: Counter[str] = Counter(problem.severity for _, found in checked for problem in found.problems)
    if as_json:
        typer.echo(_as_json(checked, counts))
    else:
        for file, found in checked:
            _tell(file, found)
        num_files = f"{len(files)} file{'s' if len(files) > 1 else ''} checked"
        typer.echo(f"{num_files}: {_counted(counts['error'], 'error')}, {_counted(counts['warning'], 'warning')}")
    raise typer.Exit(1 if counts["error"] else 0)


def _check_folders(folders: Sequence[Path]) -> list[tuple[Path, Checked]]:
    """What is wrong with the manifests of folders, and which files of theirs are passed over."""
    from abmll.data.folder import passed_over
    from abmll.data.manifest import MANIFEST, read_manifest
    from abmll.data.problems import Problem
    from abmll.data.validate import Checked

    found = [(folder / MANIFEST, read_manifest(folder)[1]) for folder in folders]
    for folder in folders:
        for path in passed_over(folder):
            cure = 'Give it by itself, or name it in a TOML spec beside it: file = "…"'
            told = Problem(printable(path.name), 0, "", "the file is passed over where a folder is read", cure, "note")
            found.append((path, [told]))
    return [(path, Checked(tuple(problems), None)) for path, problems in found if problems]


def _tell(file: Path, found: Checked) -> None:
    place = printable(str(file))
    if found.profile is not None:
        first, *rest = found.profile.lines()
        some = any(problem.severity == "error" for problem in found.problems)
        typer.echo(f"{place}: {printable(first)}" + ("; the rows in error aside" if some else ""))
        for line in rest:
            typer.echo(f"  {printable(line)}")
    for problem in found.told():
        inside = "" if problem.file == printable(file.name) else f" ({problem.file})"
        at = (f":{problem.line}" if problem.line else "") + (f" [{problem.field}]" if problem.field else "")
        line = f"{place}{inside}{at}: {problem.severity}: {problem.message}. {problem.cure}."
        colour = {"error": typer.colors.RED, "warning": typer.colors.YELLOW}.get(problem.severity)
        typer.secho(printable(line), fg=colour, color=False if os.environ.get("NO_COLOR") else None)


def _as_json(checked: Sequence[tuple[Path, Checked]], counts: Counter[str]) -> str:
    files = [
        {
            "file": printable(str(file)),
            **({} if found.profile is None else found.profile.as_dict()),
            "problems": [asdict(problem) for problem in found.problems],
        }
        for file, found in checked
    ]
    numbers = {f"{severity}s": counts[severity] for severity in ("error", "warning", "note")}
    return json.dumps({**numbers, "files": files}, indent=2)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _suite(name: str, folder: Path | None) -> Suite:
    from abmll import default

    return default.find_suite(name, folder=folder)


def _token_counters(model: str) -> dict[str, Callable[[str], int]]:
    """How many tokens a text has; and a choice's first token where it is an answer, that is after a space."""
    from abmll import models

    tokenizer = models.load_tokenizer(model)

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
        return ids

    return {"first_token": lambda text: int(encode(f" {text}")[0]), "count_tokens": lambda text: len(encode(text))}


def _task_files(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """The task files that the paths name, each once; and the folders among these."""
    from abmll.data.folder import task_files
    from abmll.data.formats.datasets import is_dataset

    files, folders = [], []
    for path in paths:
        if os.path.isdir(path) and not is_dataset(path):
            found = task_files(path)
            if not found:
                raise AbmllError(
                    f"{printable(str(path))} holds no task: put .jsonl, .csv or .tsv files (or .gz of them) or .toml "
                    "specs there."
                )
            files += found
            folders.append(path)
        else:
            # What is no ordinary file is told with the others.
            files.append(path if os.path.lexists(path) else existing_file(path, "task file or folder"))
    return list(dict.fromkeys(files)), folders


def _row(example: Example) -> str:
    text = " ".join(example.prompt.split())
    text = text if len(text) <= SHOWN_TEXT else f"{text[:SHOWN_TEXT]}…"
    more = [f"… and {len(example.choices) - SHOWN_CHOICES} more"] if len(example.choices) > SHOWN_CHOICES else []
    choices = " | ".join([*example.choices[:SHOWN_CHOICES], *more])
    return f"\n[{example.id}] {text}\n    choices: {choices}\n    answer:  {example.answer}"
